import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.fpn import FPN
from models.heads import MLP
from tests.models.published import assert_close, load_reference

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


def test_convolutions_begin_as_in_the_releases_pyramid():
    """Uniform within the square root of three over the fan-in, without bias."""
    pyramid = FPN({"c4": 30, "c5": 50}, out_channels=40, outputs=("c4",))
    for convolution in (module for module in pyramid.modules() if isinstance(module, torch.nn.Conv2d)):
        bound = (3 / convolution.weight[0].numel()) ** 0.5
        assert 0.95 * bound < convolution.weight.abs().max() <= bound
        assert not convolution.bias.any()


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


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    return load_reference("resim_fpn.npz")


def weigh_as_published(modules: dict[str, nn.Module]) -> None:
    """Sines whose phase is a parameter's place among all of these modules, in order; a norm's scale is one more."""
    place = 0
    for module in modules.values():
        norms = {id(part.weight) for part in module.modules() if isinstance(part, nn.BatchNorm2d)}
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else parameter.numel()
            waves = torch.sin(0.37 * torch.arange(parameter.numel()).double() + place) / fan_in**0.5
            parameter.data.copy_(waves.view_as(parameter) + (id(parameter) in norms))
            place += 1


@pytest.mark.parametrize("norm", [False, True])
def test_resims_pyramid_and_head_give_the_published_values(published, norm):
    channels = {"c3": 512, "c4": 1024, "c5": 2048}
    pyramid = FPN(channels, out_channels=256, outputs=("c3", "c4"), norm=norm)
    head = MLP(2048, hidden_dim=2048, output_dim=16, norm=False)
    # The published order of parameters: the head, then from the coarsest level to the finest.
    weigh_as_published(
        {
            "fc": head,
            "lateral5": pyramid.lateral["c5"],
            "lateral4": pyramid.lateral["c4"],
            "output4": pyramid.output["c4"],
            "lateral3": pyramid.lateral["c3"],
            "output3": pyramid.output["c3"],
        }
    )
    given = {"c3": published["layer2"], "c4": published["layer3"], "c5": published["layer4"]}
    prefix = "bn_out" if norm else "out"
    assert_close(head(given["c5"].mean((2, 3))), published[f"{prefix}_vec"], 1e-5)
    found = pyramid.train()(given)
    # BatchNorm over a few cells enlarges rounding, which is another with another number of threads.
    share = 1e-4 if norm else 1e-5
    assert_close(found["c4"], published[f"{prefix}_c4"], share)
    assert_close(found["c3"][:, :64], published[f"{prefix}_c3"], share)
