"""The configs for detectron2: their numbers here, and run by the real package where it is installed (how: its README.md)."""

import importlib.util
import re
from ast import literal_eval
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import yaml

from evaluation.convert import main as convert
from tests.paths import ROOT

FOLDER = ROOT / "evaluation/detectron2"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
needs_detectron2 = pytest.mark.skipif(
    importlib.util.find_spec("detectron2") is None, reason="not installed: detectron2"
)


def name_of(path: Path) -> str:
    return path.stem


def read_yaml(name: str) -> dict:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


@pytest.fixture(scope="module")
def trunk() -> dict[str, torch.Tensor]:
    state = torchvision.models.resnet50().state_dict()
    # BatchNorm's start as ones and zeros, of which any would do for any other.
    state = {
        key: value + torch.rand(value.shape) if value.is_floating_point() else value for key, value in state.items()
    }
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


@pytest.fixture(scope="module")
def converted(trunk, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    torch.save(trunk, folder / "backbone.pth")
    assert convert(["--to", "detectron2", str(folder / "backbone.pth"), str(folder / "backbone.pkl")]) == 0
    return folder / "backbone.pkl"


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_detectron2_is_told_how_the_backbone_was_trained(path):
    config = read_yaml(path.stem)
    assert config["INPUT"]["FORMAT"] == "RGB"
    assert config["MODEL"]["PIXEL_MEAN"] == [123.675, 116.28, 103.53]
    assert config["MODEL"]["PIXEL_STD"] == [58.395, 57.12, 57.375]
    assert config["MODEL"]["RESNETS"]["STRIDE_IN_1X1"] is False
    assert config["MODEL"]["BACKBONE"]["FREEZE_AT"] == 0


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_tuples_in_detectron2s_configs_are_literals(path):
    # YAML knows no tuples: detectron2 evaluates the text, and keeps what is not a literal as text.
    tuples = re.findall(r": (\(.*\))", path.read_text().partition("VERSION")[2])
    assert tuples
    assert all(isinstance(literal_eval(text), tuple) for text in tuples)


def test_in_every_command_keys_and_values_come_after_the_options():
    # What follows the first of them is no option to detectron2's argparse.REMAINDER.
    for path in (FOLDER / "README.md", *CONFIGS):
        text = re.sub(r"\\\n#?\s*", " ", path.read_text())
        commands = re.findall(r"train_net\.py +(--.*)", text)
        assert commands, path
        for command in commands:
            options, key, rest = command.partition(" MODEL.WEIGHTS ")
            assert "--config-file" in options and key and "--" not in rest, command


def test_2x_is_1x_for_twice_as_long():
    once, twice = (read_yaml(f"mask_rcnn_R50_FPN_coco_{schedule}") for schedule in ("1x", "2x"))
    assert twice["SOLVER"].pop("MAX_ITER") == 2 * once["SOLVER"].pop("MAX_ITER")
    steps, twice_steps = (literal_eval(config["SOLVER"].pop("STEPS")) for config in (once, twice))
    assert twice_steps == tuple(2 * step for step in steps)
    del once["OUTPUT_DIR"], twice["OUTPUT_DIR"]
    assert once == twice


NATIVE = {
    "mask_rcnn_R50_FPN_coco_1x": "coco_moco_1x",
    "mask_rcnn_R50_FPN_coco_2x": "coco_moco_2x",
    "coco_orl_1x": "coco_orl_1x",
    "coco_detcon_24k": "coco_detcon_24k",
    "voc_R50_C4_24k": "voc_moco_24k",
}


@pytest.mark.parametrize("name", NATIVE)
def test_our_own_evaluator_is_given_the_same_schedule(name):
    native = yaml.safe_load((ROOT / f"configs/evaluation/detection/{NATIVE[name]}.yaml").read_text())["optimizer"]
    solver = read_yaml(name)["SOLVER"]
    ours = {
        "BASE_LR": "base_lr",
        "IMS_PER_BATCH": "base_batch",
        "MOMENTUM": "momentum",
        "WEIGHT_DECAY": "weight_decay",
        "WARMUP_ITERS": "warmup_steps",
        "MAX_ITER": "total_steps",
    }
    assert {key: solver[key] for key in ours} == {key: native[name] for key, name in ours.items()}
    assert list(literal_eval(solver["STEPS"])) == native["milestones"]


@pytest.fixture
def train_net():
    from evaluation.detectron2 import train_net

    return train_net


def detectron2_name(key: str, *, prefix: str, head: str) -> str:
    """Where detectron2's network has a weight of torchvision's."""
    for n in (1, 2, 3):
        key = key.replace(f"bn{n}.", f"conv{n}.norm.")
    key = key.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    if not key.startswith("layer"):
        return f"{prefix}stem.{key}"
    stage = int(key[len("layer")]) + 1
    return f"{head if stage == 5 else prefix}res{stage}{key[len('layer1') :]}"


@needs_detectron2
@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_detectron2_builds_the_detector_and_loads_the_whole_backbone(path, train_net, converted, trunk):
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_model

    config = train_net.load_config(str(path), ["MODEL.DEVICE", "cpu"])
    model = build_model(config)
    DetectionCheckpointer(model).load(str(converted))
    loaded = model.state_dict()
    pyramid = "fpn" in config.MODEL.BACKBONE.NAME
    prefix = "backbone.bottom_up." if pyramid else "backbone."
    for key, value in trunk.items():
        name = detectron2_name(key, prefix=prefix, head=prefix if pyramid else "roi_heads.")
        assert torch.equal(loaded[name], value), name


@needs_detectron2
def test_detectron2_loads_resims_pyramid(train_net, tmp_path):
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_model

    sizes = {
        "lateral5": (2048, 1),
        "lateral4": (1024, 1),
        "lateral3": (512, 1),
        "output4": (256, 3),
        "output3": (256, 3),
    }
    state = {f"module.encoder_q.{key}": value for key, value in torchvision.models.resnet50().state_dict().items()}
    fc = {"0.weight": (2048, 2048), "0.bias": (2048,), "2.weight": (128, 2048), "2.bias": (128,)}
    state = {key: value for key, value in state.items() if ".fc." not in key}
    state |= {f"module.encoder_q.fc.{key}": torch.randn(shape) for key, shape in fc.items()}
    for name, (inputs, side) in sizes.items():
        state[f"module.encoder_q.fpn_{name}.weight"] = torch.randn(256, inputs, side, side)
        state[f"module.encoder_q.fpn_{name}.bias"] = torch.randn(256)
    state |= {key.replace("encoder_q", "encoder_k"): value for key, value in state.items()}
    state |= {"module.queue": torch.randn(128, 256), "module.queue_ptr": torch.zeros(1, dtype=torch.int64)}
    torch.save({"state_dict": state}, tmp_path / "resim.pth")
    assert convert(["--to", "detectron2", str(tmp_path / "resim.pth"), str(tmp_path / "resim.pkl")]) == 0
    for norm, ends in (("SyncBN", ("weight",)), ("", ("weight", "bias"))):
        options = ["MODEL.DEVICE", "cpu", "MODEL.FPN.NORM", norm]
        path = FOLDER / "mask_rcnn_R50_FPN_coco_1x.yaml"
        model = build_model(train_net.load_config(str(path), options))
        DetectionCheckpointer(model).load(str(tmp_path / "resim.pkl"))
        loaded = model.state_dict()
        for name in sizes:
            for end in ends:
                assert torch.equal(loaded[f"backbone.fpn_{name}.{end}"], state[f"module.encoder_q.fpn_{name}.{end}"])


@needs_detectron2
def test_c4s_box_head_ends_in_batch_norm(train_net):
    from detectron2.modeling import build_model

    path = FOLDER / "voc_R50_C4_24k.yaml"
    head = build_model(train_net.load_config(str(path), ["MODEL.DEVICE", "cpu"])).roi_heads.eval()
    with torch.no_grad():
        head.res5.norm.bias += 3
        out = head.res5(torch.rand(2, 1024, 14, 14))
    assert head.res5.norm.num_features == 2048
    assert (out >= 3).all() and (out == 3).any()


@needs_detectron2
def test_large_scale_jitter_gives_squares_whose_boxes_and_polygons_follow(train_net):
    from detectron2.data import transforms as T

    options = ["INPUT.LARGE_SCALE_JITTER.SIZE", "96"]
    config = train_net.load_config(str(FOLDER / "coco_detcon_24k.yaml"), options)
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 20:40] = 255
    for _ in range(20):
        views = T.AugInput(image.copy(), boxes=np.array([[20.0, 10, 40, 30]]))
        moved = T.AugmentationList(train_net.jittered(config, training=True))(views)
        assert views.image.shape == (96, 96, 3)
        box = views.boxes[0].clip(0, 96)
        x0, y0, x1, y1 = box.round().astype(int)
        assert (views.image[y0 + 3 : y1 - 3, x0 + 3 : x1 - 3] > 200).all()
        # As DatasetMapper moves COCO's instances, whatever INPUT.MASK_FORMAT: the crop cuts them, for which it needs shapely.
        [polygon] = moved.apply_polygons([np.array([[20.0, 10], [40, 10], [40, 30], [20, 30]])])
        assert np.allclose([*polygon.min(0), *polygon.max(0)], box, atol=1)
    view = T.AugInput(image)
    T.AugmentationList(train_net.jittered(config, training=False))(view)
    assert view.image.shape == (64, 96, 3)
