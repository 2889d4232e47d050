"""Carries a pretrained backbone from any known checkpoint to torchvision, detectron2, MMSegmentation, timm or safetensors.

python -m evaluation.convert --to detectron2 checkpoint.pth backbone.pkl
"""

import argparse
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from torch import Tensor

from engine.checkpoint import save_state
from evaluation.checkpoints.reading import NAMES, Weights, read_checkpoint
from evaluation.checkpoints.trunks import list_keys
from utils.cli import shows_errors
from utils.errors import UserError
from utils.files import atomic_path, atomic_write_bytes

AUTHOR = "region-object-pretraining"
# What detectron2's configs call the trunks that are not plain.
_GROUPS = {"resnext50_32x4d": (32, 4), "resnext101_32x8d": (32, 8), "resnext101_64x4d": (64, 4)}
_GROUPS |= {"wide_resnet50_2": (1, 128), "wide_resnet101_2": (1, 128)}


class Target(NamedTuple):
    """Where a backbone goes."""

    suffixes: tuple[str, ...]
    write: Callable[[Weights, Path], int]  # gives the number of tensors written
    takes: Callable[[str], bool]  # whether it has this architecture
    takes_neck: bool
    advice: Callable[[Weights, Path], str]  # how to load it there


@shows_errors
def main(argv: list[str] | None = None) -> int:
    arguments = make_parser().parse_args(argv)
    target, out = TARGETS[arguments.to], Path(arguments.out)
    _check_out(out, arguments)
    weights = read_checkpoint(arguments.checkpoint, source=arguments.source, network=arguments.network)
    if not target.takes(weights.architecture):
        raise UserError(f"--to {arguments.to}: it has no {weights.architecture}; give torchvision or safetensors")
    try:
        count = target.write(weights, out)
    except OSError as error:
        raise UserError(f"{out} could not be written: {error.strerror or error}") from error
    print(describe(weights, arguments.checkpoint, network=arguments.network))
    if weights.neck and not target.takes_neck:
        print(f"  left out: {len(weights.neck)}, the feature pyramid, which --to {arguments.to} has no place for")
    print(f"{out}: {arguments.to}, {count} tensors\n  {target.advice(weights, out)}")
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", metavar="IN", help="a checkpoint, ours or another's")
    parser.add_argument("out", metavar="OUT", help="the file to write; for detectron2 a .pkl or a .pth")
    parser.add_argument("--to", required=True, choices=list(TARGETS))
    parser.add_argument(
        "--from", default="auto", dest="source", choices=["auto", *NAMES], help="by default, what its keys say it is"
    )
    parser.add_argument("--network", default="online", choices=["online", "target"], help="which, where IN has both")
    parser.add_argument("--force", action="store_true", help="write over OUT")
    return parser


def describe(weights: Weights, path: str, *, network: str) -> str:
    """What was found in a file, and what of it is left out."""
    millions = sum(value.numel() for value in weights.trunk.values()) / 1e6
    lines = [
        f"{path}: {weights.layout}, {network} network: {weights.whose}",
        f"  taken: {weights.architecture}, {len(weights.trunk)} tensors, {millions:.2f} million numbers",
    ]
    if weights.neck:
        lines.append(
            f"  taken: a feature pyramid, {len(weights.neck)} tensors: {', '.join(_convolutions(weights.neck))}"
        )
    lines += [f"  left out: {len(keys)}, {why}: {list_keys(_modules(keys))}" for why, keys in weights.ignored.items()]
    return "\n".join(lines)


def detectron2_names(weights: Weights) -> dict[str, Tensor]:
    """The trunk and the pyramid under detectron2's names, which it completes by their ends."""
    renamed = {_detectron2_trunk_key(key): value for key, value in weights.trunk.items()}
    for key, value in weights.neck.items():
        kind, level, rest = key.split(".", 2)
        renamed[f"backbone.fpn_{kind}{level[1]}.{rest}"] = value
    return renamed


def _detectron2_trunk_key(key: str) -> str:
    key = re.sub(r"\bbn([1-3])\.", r"conv\1.norm.", key)
    key = key.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    # torchvision counts the stages behind the stem, detectron2 the halvings of the image.
    key, stages = re.subn(r"^layer([1-4])", lambda stage: f"res{int(stage[1]) + 1}", key)
    return key if stages else f"stem.{key}"


def _write_detectron2(weights: Weights, out: Path) -> int:
    model = detectron2_names(weights)
    content: dict[str, Any] = {"model": model, "__author__": AUTHOR, "matching_heuristics": True}
    if out.suffix == ".pth":
        save_state(content, out)
        return len(model)
    content["model"] = {key: value.numpy() for key, value in model.items()}
    # Protocol 3 names what it needs in plain text; NumPy 1, which many run detectron2 with, knows it by the older name alone.
    data = pickle.dumps(content, protocol=3).replace(b"cnumpy._core.", b"cnumpy.core.", 1)
    atomic_write_bytes(out, data)
    return len(model)


def _write_flat(weights: Weights, out: Path) -> int:
    save_state(weights.trunk, out)
    return len(weights.trunk)


def _write_mmseg(weights: Weights, out: Path) -> int:
    # Without `backbone.` before the keys: asked for a prefix that is not there mmengine stops, but a prefix that it was not
    # asked to take off would leave the backbone untrained with no more than a warning.
    save_state({"meta": {"author": AUTHOR}, "state_dict": weights.trunk}, out)
    return len(weights.trunk)


def _write_safetensors(weights: Weights, out: Path) -> int:
    with atomic_path(out) as temporary:
        safetensors.torch.save_file(weights.trunk, temporary, metadata={"format": "pt"})
    return len(weights.trunk)


def _depth(architecture: str) -> int:
    return int(re.search(r"\d+", architecture)[0])


def _detectron2_advice(weights: Weights, out: Path) -> str:
    architecture, pyramid = weights.architecture, ""
    keys = {"DEPTH": _depth(architecture), "STRIDE_IN_1X1": False}
    if architecture in _GROUPS:
        keys["NUM_GROUPS"], keys["WIDTH_PER_GROUP"] = _GROUPS[architecture]
    if architecture in ("resnet18", "resnet34"):
        keys["RES2_OUT_CHANNELS"] = 64
    resnets = ", ".join(f"{key}: {value}" for key, value in keys.items())
    if weights.neck:
        channels = next(value.shape[0] for key, value in weights.neck.items() if key.endswith(".weight"))
        norm = "SyncBN" if any(".norm." in key for key in weights.neck) else ""
        pyramid = f', MODEL.FPN: {{OUT_CHANNELS: {channels}, NORM: "{norm}"}}'
    return (
        f'in its config: MODEL.WEIGHTS: "{out}", MODEL.RESNETS: {{{resnets}}}{pyramid};\n'
        '  it was trained on RGB, which is not the default there: INPUT.FORMAT: "RGB", MODEL.PIXEL_MEAN: [123.675, 116.280, '
        "103.530], MODEL.PIXEL_STD: [58.395, 57.120, 57.375]"
    )


def _mmseg_advice(weights: Weights, out: Path) -> str:
    architecture = weights.architecture
    groups = ", ".join(f"{key}={value}" for key, value in zip(("groups", "base_width"), _GROUPS.get(architecture, ())))
    kind = f"type='ResNeXt', {groups}" if groups else "type='ResNet'"
    return (
        f"in its config: backbone=dict({kind}, depth={_depth(architecture)}, style='pytorch', "
        f"init_cfg=dict(type='Pretrained', checkpoint='{out}')),\n"
        "  with bgr_to_rgb=True, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375] in its data_preprocessor"
    )


def _torchvision_advice(weights: Weights, out: Path) -> str:
    architecture = weights.architecture
    if architecture == "resnet_tiny":
        return f"in a config here: model.weights: {out}, with model.backbone as it was trained"
    return f"torchvision.models.{architecture}().load_state_dict(torch.load({str(out)!r}), strict=False); only fc is missing"


def _timm_advice(weights: Weights, out: Path) -> str:
    return f"timm.create_model({weights.architecture!r}, num_classes=0, checkpoint_path={str(out)!r})"


def _safetensors_advice(weights: Weights, out: Path) -> str:
    return f"safetensors.torch.load_file({str(out)!r}): {weights.architecture} under torchvision's names, without fc"


def _is_published(architecture: str) -> bool:
    return architecture != "resnet_tiny"


def _is_in_mmseg(architecture: str) -> bool:
    return architecture.startswith(("resnet", "resnext")) and _is_published(architecture)


TARGETS = {
    "torchvision": Target((".pth", ".pt"), _write_flat, lambda name: True, False, _torchvision_advice),
    "detectron2": Target((".pkl", ".pth"), _write_detectron2, _is_published, True, _detectron2_advice),
    "mmseg": Target((".pth", ".pt"), _write_mmseg, _is_in_mmseg, False, _mmseg_advice),
    "timm": Target((".pth", ".pt"), _write_flat, _is_published, False, _timm_advice),
    "safetensors": Target((".safetensors",), _write_safetensors, lambda name: True, False, _safetensors_advice),
}


def _check_out(out: Path, arguments: argparse.Namespace) -> None:
    suffixes = TARGETS[arguments.to].suffixes
    if out.suffix not in suffixes:
        raise UserError(f"{out}: --to {arguments.to} writes {' or '.join(suffixes)}; what reads it goes by that")
    try:
        if out.is_dir():
            raise UserError(f"{out} is a folder; give a file in it")
        if out.exists() and not arguments.force:
            raise UserError(f"{out} is there already; give another OUT, or --force to write over it")
        # The folders below it are made.
        folder = next(folder for folder in out.absolute().parents if folder.exists())
    except OSError as error:
        raise UserError(f"{out}: nothing can be written there ({error.strerror}); give another OUT") from error
    if not folder.is_dir():
        raise UserError(f"{out}: {folder} is a file, where a folder is needed; give another OUT")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{out}: you may not write to {folder}; give another OUT")


def _convolutions(neck: dict[str, Tensor]) -> list[str]:
    return [f"{key.removesuffix('.weight')} {tuple(value.shape)}" for key, value in neck.items() if value.dim() == 4]


def _modules(keys: list[str]) -> list[str]:
    return sorted({".".join(str(key).split(".")[:2]) for key in keys})


if __name__ == "__main__":
    raise SystemExit(main())
