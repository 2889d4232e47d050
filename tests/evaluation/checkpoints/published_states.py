"""Checkpoints like the published ones: their keys and shapes, with numbers of ours."""

import zlib
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from models.backbone import Trunk, make_trunk
from tests.paths import REFERENCE

TINY = {"type": "resnet_tiny", "pretrained": False, "width": 8, "blocks": [1, 1, 1, 1], "strides": [1, 1, 2, 2, 2]}
# Layout, key list, what the file calls the state dict, and where the two networks' trunks are.
PUBLISHED = {
    "r2o": (
        "r2o_checkpoint_model_after_kmeans_forward",
        "model",
        "module.online_network.encoder.",
        "module.target_network.encoder.",
    ),
    "detconb": (
        "detconb_checkpoint_model_pool7",
        "model",
        "module.online_network.encoder.",
        "module.target_network.encoder.",
    ),
    "resim": ("resim_checkpoint_state_dict", "state_dict", "module.encoder_q.", "module.encoder_k."),
    "orl": ("orl_checkpoint_state_dict", "state_dict", "online_net.0.", "target_net.0."),
    "cyborgs": ("cyborgs_checkpoint_state_dict", "state_dict", "net.", "target_encoder.net."),
}
# Which networks are held twice, and where the second ones are.
COPIES = {
    "r2o": ("module._fpn.", "module.target_network.encoder."),
    "orl": ("backbone.", "online_net.0."),
    "cyborgs": ("online_encoder.net.", "net."),
}

# Longer than the largest tensor of a ResNet-50 without its heads; all tensors are pieces of it, so that files stay small.
_LENGTH = 2_500_000


def published(layout: str) -> dict:
    """A checkpoint of a release, whose copies are equal."""
    keys, container, *_ = PUBLISHED[layout]
    state = published_state(keys)
    if layout in COPIES:
        copy, original = COPIES[layout]
        state |= {key: state[original + key.removeprefix(copy)] for key in state if key.startswith(copy)}
    return {"epoch": 200, container: state, "optimizer": {"lr": np.float64(0.3)}}


def tiny(seed: int = 0) -> Trunk:
    """A small trunk none of whose numbers is what it begins with."""
    torch.manual_seed(seed)
    trunk = make_trunk(**TINY)
    with torch.no_grad():
        for value in trunk.state_dict().values():
            value.add_(torch.rand(value.shape) if value.is_floating_point() else seed + 1)
    return trunk


def ours(method: nn.Module) -> dict:
    """A checkpoint as the loop here saves it."""
    return {"method": method.state_dict(), "config": {"model": {"backbone": TINY}}, "step": 7, "buffers": []}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Equal names and equal numbers."""
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


def published_state(name: str) -> dict[str, Tensor]:
    """A state dict with the keys and shapes of tests/reference/keys/NAME.txt, each network with numbers of its own.

    Convolutions get small ones and what must be positive is, so that features stay finite. Heads are all one number.
    """
    lines = (REFERENCE / "keys" / f"{name}.txt").read_text().splitlines()
    return {key: _values(key, eval_shape(shape), dtype) for key, shape, dtype in (line.split("\t") for line in lines)}


def eval_shape(text: str) -> tuple[int, ...]:
    """(64, 3, 7, 7) from "(64, 3, 7, 7)"."""
    return tuple(int(number) for number in text.strip("(),").split(",") if number.strip())


def network_below(state: dict[str, Tensor], prefix: str, names: list[str]) -> dict[str, Tensor]:
    """The keys below a prefix under torchvision's `names`, by their order alone: every release keeps torchvision's."""
    own = [value for key, value in state.items() if key.startswith(prefix) and ".fc." not in key]
    return dict(zip(names, own[: len(names)], strict=True))


def trunk_names() -> list[str]:
    """A ResNet-50's keys without fc, in torchvision's order."""
    lines = (REFERENCE / "keys/r2o_detcon_torchvision_resnet50_after_convert_fcn.txt").read_text().splitlines()
    return [line.split("\t")[0] for line in lines if not line.startswith("fc.")]


@lru_cache(maxsize=2)
def _noise(positive: bool) -> Tensor:
    generator = torch.Generator().manual_seed(int(positive))
    if positive:
        return torch.rand(_LENGTH, generator=generator) + 0.5
    return torch.randn(_LENGTH, generator=generator) * 0.03


def _values(key: str, shape: tuple[int, ...], dtype: str) -> Tensor:
    place = zlib.crc32(key.encode())
    if dtype == "int64":
        return torch.full(shape, place % 10_000)
    count = torch.Size(shape).numel()
    if count >= _LENGTH:
        return torch.tensor(0.5).expand(shape)
    is_norm = len(shape) == 1 and not key.endswith("running_mean")
    begin = place % (_LENGTH - count)
    return _noise(is_norm)[begin : begin + count].view(shape)
