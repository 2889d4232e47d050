import numpy as np
import pytest
import torch

from losses.byol import masked_byol_loss, overlap, region_weight
from tests.paths import REFERENCE


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    with np.load(REFERENCE / "r2o_loss.npz") as arrays:
        return {key: torch.as_tensor(arrays[key]) for key in arrays.files if arrays[key].dtype.kind == "f"}


@pytest.mark.parametrize("indicator", [True, False])
@pytest.mark.parametrize("by_area", [True, False])
def test_loss_and_gradient_match_the_release(reference, indicator, by_area):
    prediction = reference["preds"].clone().requires_grad_()
    areas_1, areas_2 = reference["masks"].sum(-1).chunk(2)
    weight = region_weight(areas_1, areas_2, overlap_indicator=indicator, by_area=by_area).repeat(2, 1)
    loss = masked_byol_loss(prediction, reference["targets"], weight)
    loss.backward()
    name = f"overlap{int(indicator)}_weight{int(by_area)}"
    assert loss.item() == pytest.approx(reference[f"{name}_loss"].item(), rel=1e-5)
    theirs = reference[f"{name}_grad"]
    assert (prediction.grad - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    shared = overlap(areas_1, areas_2).sum(1).mean().item()
    assert shared == reference[f"{name}_num_indicator"].item()


def test_no_region_left_gives_zero_loss_and_gradient():
    prediction = torch.randn(4, 3, 8, requires_grad=True)
    loss = masked_byol_loss(prediction, torch.randn(4, 3, 8), torch.zeros(4, 3))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(prediction.grad, torch.zeros_like(prediction))


def test_dropped_regions_do_not_matter():
    prediction, target = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    weight = torch.tensor([1.0, 0, 1, 1, 0]).expand(2, 5)
    before = masked_byol_loss(prediction, target, weight)
    prediction[:, [1, 4]] = 7.0
    assert masked_byol_loss(prediction, target, weight) == before


def test_the_order_of_regions_does_not_matter():
    prediction, target, weight = torch.randn(2, 6, 8), torch.randn(2, 6, 8), torch.rand(2, 6)
    order = torch.randperm(6)
    shuffled = masked_byol_loss(prediction[:, order], target[:, order], weight[:, order])
    assert torch.allclose(shuffled, masked_byol_loss(prediction, target, weight))


def test_low_precision_input_is_compared_in_float32():
    prediction = torch.randn(2, 3, 64)
    loss = masked_byol_loss(prediction.bfloat16(), prediction.bfloat16(), torch.ones(2, 3))
    assert loss.dtype == torch.float32
    assert loss.abs() < 1e-5


def test_total_weight_over_processes_makes_their_mean_the_loss_of_all():
    prediction, target, weight = torch.randn(4, 3, 8), torch.randn(4, 3, 8), torch.rand(4, 3)
    whole = masked_byol_loss(prediction, target, weight)
    total = weight.sum() / 2
    parts = [
        masked_byol_loss(p, t, w, total_weight=total)
        for p, t, w in zip(prediction.split([1, 3]), target.split([1, 3]), weight.split([1, 3]))
    ]
    assert torch.allclose(sum(parts) / 2, whole)
