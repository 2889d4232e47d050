import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.pooling import majority_labels, pool_regions, region_masks, sample_regions
from tests.losses.allocations import Allocations
from tests.paths import REFERENCE


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    with np.load(REFERENCE / "detcon_masks.npz") as arrays:
        return {key: torch.as_tensor(arrays[key]) for key in arrays.files}


def slow_majority(labels: torch.Tensor, num_labels: int, size: tuple[int, int]) -> torch.Tensor:
    one_hot = F.one_hot(labels.long(), num_labels).permute(0, 3, 1, 2).double()
    # Rounded to counts again, so that a tie is one whatever the division did.
    return F.adaptive_avg_pool2d(one_hot, size).mul(1e4).round().flatten(2).argmax(1)


@pytest.mark.parametrize("side", [7, 14, 28])
def test_majority_labels_match_the_release(reference, side):
    labels, theirs = reference["mask"][:, 0].int(), reference[f"pooled_id_{side}"].long()
    cells = majority_labels(labels, num_labels=260, size=(side, side))
    # The release knows ids below 256 alone: where another leads, it takes the next, or 0.
    kept = cells < 256
    assert torch.equal(cells[kept], theirs[kept])
    assert kept[:3].all() and not kept[3].all()


def test_regions_present_match_the_release(reference):
    # The release's ids of 256 and more are nobody's: its image with such ids is left out.
    cells = majority_labels(reference["mask"][:3, 0].int(), num_labels=256, size=(7, 7))
    present = torch.zeros(3, 256, dtype=torch.bool).scatter_(1, cells, True)
    assert torch.equal(present, reference["exists"][:3])


@pytest.mark.parametrize("num_labels", [3, 40, 3000])
@pytest.mark.parametrize("shape, size", [((24, 32), (6, 4)), ((31, 47), (7, 5)), ((5, 3), (7, 7)), ((20, 9), (7, 12))])
def test_majority_labels_equal_the_argmax_of_pooled_one_hot_maps(shape, size, num_labels):
    # Few ids over the whole range make ties and clear majorities both.
    few = torch.randperm(num_labels)[:3]
    labels = few[torch.randint(0, 3, (3, *shape))]
    cells = majority_labels(labels, num_labels=num_labels, size=size)
    assert cells.dtype == torch.int64
    assert torch.equal(cells, slow_majority(labels, num_labels, size))


@pytest.mark.parametrize("num_labels", [200, 65536])
def test_ties_go_to_the_lowest_id(num_labels):
    labels = torch.tensor([[[150, 7, 9, 199], [199, 150, 199, 9]]], dtype=torch.uint8)
    assert majority_labels(labels, num_labels=num_labels, size=(1, 2)).tolist() == [[150, 9]]
    assert majority_labels(labels, num_labels=num_labels, size=(2, 4)).tolist() == [labels.flatten().tolist()]


@pytest.mark.parametrize("num_labels", [60, 300, 65536])
def test_memory_follows_the_pixels_however_many_ids_there_may_be(num_labels):
    labels = torch.randint(0, num_labels, (2, 56, 56))
    with Allocations() as allocations:
        majority_labels(labels, num_labels=num_labels, size=(7, 7))
    assert max(allocations.sizes) <= 9 * labels.numel()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_majority_labels_take_every_type_of_id(dtype):
    labels = torch.full((1, 4, 4), 255, dtype=dtype)
    assert majority_labels(labels, num_labels=256, size=(2, 2)).tolist() == [[255] * 4]


def test_drawn_regions_are_every_one_present_and_none_other_equally_often(reference):
    cells = reference["pooled_id_7"].long()
    uniforms = torch.rand(4, 8000, generator=torch.Generator().manual_seed(0))
    drawn = sample_regions(cells, uniforms)
    counts = torch.zeros(4, 256).scatter_add_(1, drawn, torch.ones(4, 8000))
    assert torch.equal(counts > 0, reference["exists"])
    assert torch.equal(reference["sample_counts_8000"] > 0, reference["exists"])
    expected = reference["exists"] * 8000 / reference["exists"].sum(1, keepdim=True)
    # Five standard deviations of a count, whose variance is below its mean.
    assert ((counts - expected).abs() <= 5 * expected.sqrt()).all()


def test_a_uniform_picks_its_share_of_the_ids_in_rising_order():
    cells = torch.tensor([[9, 2, 9, 9, 500, 2], [4, 4, 4, 4, 4, 4]])
    uniforms = torch.tensor([0.0, 0.333, 0.334, 0.666, 0.667, 0.999])
    drawn = sample_regions(cells, uniforms.expand(2, -1))
    assert drawn.tolist() == [[2, 2, 9, 9, 500, 500], [4] * 6]


def test_the_largest_uniforms_still_pick_an_id():
    cells = torch.arange(3000)[None]
    below_one = torch.tensor(1.0).nextafter(torch.tensor(0.0))
    assert sample_regions(cells, torch.stack([below_one, torch.tensor(1.0)])[None]).tolist() == [[2999, 2999]]


def test_masks_and_pooled_features_of_drawn_regions_match_the_release(reference):
    masks = region_masks(reference["pooled_id_7"].long(), reference["sample_ids"].long())
    assert masks.dtype == torch.float32
    assert torch.equal(masks, reference["sampled_masks"].float())
    assert (pool_regions(reference["feats"], masks) - reference["pooled"]).abs().max() < 1e-5
