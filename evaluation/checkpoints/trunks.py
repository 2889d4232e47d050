"""Which trunk a state dict is of, and whether it is all there."""

from functools import lru_cache
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor

from engine.checkpoint import own_float32
from models.backbone import TinyResNet, list_resnets
from utils.errors import UserError

Shapes = dict[str, tuple[int, ...]]
_COUNTER = ".num_batches_tracked"
# Of a long list of keys, so many are named.
_NAMED = 4


class _Misfit(NamedTuple):
    missing: list[str]
    unknown: list[str]
    misshapen: list[str]

    @property
    def size(self) -> int:
        return sum(map(len, self))


def check_trunk(state: dict[str, Tensor], *, where: str) -> tuple[str, dict[str, Tensor]]:
    """Say which trunk `state` is of and bring it in order.

    Args:
        state: a trunk's state dict under torchvision's names.
        where: the file, for messages.
    Returns:
        The trunk's name, "resnet50" or another of torchvision's or "resnet_tiny"; and its state dict in torchvision's order,
        float32, each tensor contiguous. BatchNorm's counters of batches, which old files lack, are 0 there.
    Raises:
        UserError: it is none of those trunks whole, naming keys; or a value is not finite.
    """
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    name, blueprint = _nearest(shapes)
    misfit = _compare(shapes, blueprint)
    if misfit.size:
        raise UserError(f"{where}: not a whole backbone of a known kind; {name} comes nearest, but {_describe(misfit)}")
    trunk = {key: own_float32(state[key]) if key in state else torch.zeros((), dtype=torch.int64) for key in blueprint}
    check_finite(trunk, where=where)
    return name, trunk


def check_finite(state: dict[str, Tensor], *, where: str) -> None:
    """Raises UserError, naming the first, where a value is NaN or infinite."""
    for key, value in state.items():
        if not value.isfinite().all():
            raise UserError(
                f"{where}: {key} is not finite: the run that wrote it had diverged; use an older checkpoint"
            )


def _nearest(shapes: Shapes) -> tuple[str, Shapes]:
    stem = shapes.get("conv1.weight", ())
    # torchvision's stems are 7 x 7.
    if stem[2:] == (3, 3) and stem[0] > 0:
        return "resnet_tiny", _tiny_shapes(shapes)
    misfits = {}
    # Each takes its time to build; the usual ones have the shortest names.
    for name in sorted(list_resnets(), key=len):
        misfits[name] = _compare(shapes, _torchvision_shapes(name)).size
        if misfits[name] == 0:
            break
    name = min(misfits, key=misfits.get)
    return name, _torchvision_shapes(name)


@lru_cache
def _torchvision_shapes(name: str) -> Shapes:
    with torch.device("meta"):
        return _shapes(torchvision.models.get_model(name))


def _tiny_shapes(shapes: Shapes) -> Shapes:
    """Of the TinyResNet that has this one's width, depths and shortcuts."""
    stages = [{key.split(".")[1] for key in shapes if key.startswith(f"layer{n}.")} for n in (1, 2, 3, 4)]
    # Counted, not numbered: a key may claim any number.
    blocks = tuple(max(len(stage), 1) for stage in stages)
    # The later stages double the channels and so have a shortcut whatever their stride.
    first = 2 if "layer1.0.downsample.0.weight" in shapes else 1
    with torch.device("meta"):
        return _shapes(TinyResNet(width=shapes["conv1.weight"][0], blocks=blocks, strides=(1, first, 2, 2, 2)))


def _shapes(network: torch.nn.Module) -> Shapes:
    return {key: tuple(value.shape) for key, value in network.state_dict().items() if not key.startswith("fc.")}


def _compare(shapes: Shapes, blueprint: Shapes) -> _Misfit:
    return _Misfit(
        [key for key in blueprint if key not in shapes and not key.endswith(_COUNTER)],
        [key for key in shapes if key not in blueprint],
        [key for key in blueprint if key in shapes and shapes[key] != blueprint[key]],
    )


def _describe(misfit: _Misfit) -> str:
    named = {"is missing": misfit.missing, "is not in it": misfit.unknown, "has another shape": misfit.misshapen}
    return "; ".join(f"{list_keys(keys)} {what}" for what, keys in named.items() if keys)


def list_keys(keys: list[str]) -> str:
    """The first few by name."""
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return ", ".join(keys[:_NAMED]) + more
