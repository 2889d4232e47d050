import pytest
import torch
import torch.nn.functional as F

from models.fpn import FPN

CHANNELS = {"c3": 3, "c4": 5, "c5": 7}


def features(sides: dict[str, tuple[int, int]]) -> dict[str, torch.Tensor]:
    return {level: torch.randn(2, CHANNELS[level], *side) for level, side in sides.items()}


def doubled(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., : like.shape[2], : like.shape[3]]


@pytest.mark.parametrize(
    "sides",
    [
        {"c3": (8, 8), "c4": (4, 4), "c5": (2, 2)},
        {"c3": (13, 9), "c4": (7, 5), "c5": (4, 3)},
    ],
)
def test_outputs_equal_a_computation_by_hand_on_even_and_odd_grids(sides):
    pyramid, given = FPN(CHANNELS, out_channels=6, outputs=("c3", "c4")), features(sides)
    weights = dict(pyramid.named_parameters())

    def convolved(part, level, x):
        name = f"{part}.{level}"
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=int(part == "output"))

    m5 = convolved("lateral", "c5", given["c5"])
    m4 = convolved("lateral", "c4", given["c4"])
    m4 = m4 + doubled(m5, m4)
    m3 = convolved("lateral", "c3", given["c3"])
    m3 = m3 + doubled(m4, m3)
    found = pyramid(given)
    assert set(found) == {"c3", "c4"}
    assert torch.allclose(found["c4"], convolved("output", "c4", m4), atol=1e-6)
    assert torch.allclose(found["c3"], convolved("output", "c3", m3), atol=1e-6)


def test_levels_below_the_lowest_output_are_neither_made_nor_asked_for():
    pyramid, given = FPN(CHANNELS, out_channels=4, outputs=("c4",)), features({"c4": (4, 4), "c5": (2, 2)})
    assert pyramid(given)["c4"].shape == (2, 4, 4, 4)
    assert not any("c3" in name for name in pyramid.state_dict())


def test_every_parameter_gets_a_gradient():
    pyramid = FPN(CHANNELS, out_channels=4, outputs=("c4",), norm=True)
    pyramid(features({"c4": (4, 4), "c5": (2, 2)}))["c4"].square().sum().backward()
    assert all(parameter.grad is not None for parameter in pyramid.parameters())


def test_norm_takes_the_place_of_the_bias():
    pyramid = FPN(CHANNELS, out_channels=4, outputs=("c5",), norm=True)
    norms = [module for module in pyramid.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    convolutions = [module for module in pyramid.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(norms) == len(convolutions) == 2
    assert all(convolution.bias is None for convolution in convolutions)


@pytest.mark.parametrize("outputs", [(), ("c2", "c3")])
def test_unknown_outputs_are_refused_with_the_known_ones(outputs):
    with pytest.raises(ValueError, match="c3, c4, c5"):
        FPN(CHANNELS, out_channels=4, outputs=outputs)
