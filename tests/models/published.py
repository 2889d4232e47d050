"""What the tests against a published model's forward pass have in common."""

import importlib.util

import numpy as np
import torch
from torch import nn

from tests.paths import REFERENCE

# Their names to ours: encoder.N are a ResNet's children in order, projetion (sic) is the projector.
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_LAYERS = {"l1": "0", "bn1": "1", "l2": "3"}


def load_reference(file: str) -> dict[str, torch.Tensor]:
    """All its arrays but those of words."""
    with np.load(REFERENCE / file) as arrays:
        return {key: torch.as_tensor(array) for key, array in arrays.items() if array.dtype.kind != "U"}


def tiny_resnet(**channels: int) -> nn.Module:
    spec = importlib.util.spec_from_file_location("tinynet", REFERENCE / "tinynet.py")
    tinynet = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tinynet)
    return tinynet.TinyResNet(**channels)


def named_ours(reference: dict[str, torch.Tensor], prefix: str, *, target_projector: str) -> dict[str, torch.Tensor]:
    """The arrays under `prefix`, by our names of the parameters."""
    found = {}
    for key, value in reference.items():
        if key.startswith(prefix):
            owner, part, *rest = key.removeprefix(prefix).split(".")
            if part == "encoder":
                rest[0] = _CHILDREN[rest[0]]
                module = {"online_network": "backbone", "target_network": "target.0"}[owner]
            else:
                rest[0] = _LAYERS[rest[0]]
                modules = {"online_network": "projector", "target_network": target_projector, "predictor": "predictor"}
                module = modules[owner]
            found[".".join([module, *rest])] = value
    return found


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, share: float, floor: float = 0.0) -> None:
    """Equal to a share of the largest value."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= max(share * theirs.abs().max(), floor)


def assert_gradients_close(model: nn.Module, theirs: dict[str, torch.Tensor]) -> None:
    """Biases in front of a BatchNorm have no gradient but rounding: the floor is what is small beside the largest."""
    ours = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert ours.keys() == theirs.keys()
    floor = 1e-4 * max(value.abs().max() for value in theirs.values())
    for name, value in theirs.items():
        assert_close(ours[name], value, 1e-2, floor)


def assert_target_follows(model: nn.Module, theirs: dict[str, torch.Tensor]) -> None:
    """The target's parameters, all of them, after its update; the statistics of its BatchNorm are its own."""
    slow = dict(model.target.named_parameters(prefix="target"))
    moved = {name for name in theirs if name.startswith("target") and "running" not in name and "tracked" not in name}
    assert moved == set(slow)
    for name, value in slow.items():
        assert_close(value, theirs[name], 1e-6)


def crop_boxes(anchors: dict[str, torch.Tensor]) -> torch.Tensor:
    """(n, 2, 4) boxes of query and key view as the data path hands them on, from the published crops in pixels."""
    height, width = anchors["img_hw"].double()[:, None].unbind(-1)
    top, left, h, w = torch.stack([anchors[f"crop_{view}_tlhw"] for view in "qk"], dim=1).double().unbind(-1)
    return torch.stack([left / width, top / height, (left + w) / width, (top + h) / height], dim=-1).float()
