import pytest
import torch
import torch.nn.functional as F

from models.pooling import (
    count_distinct,
    majority_labels,
    pool_regions,
    region_masks,
    sample_distinct_regions,
    sample_regions,
)
from tests.losses.allocations import Allocations
from tests.models.published import load_reference


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    return load_reference("detcon_masks.npz")


@pytest.fixture(scope="module")
def cyborgs() -> dict[str, torch.Tensor]:
    return load_reference("cyborgs_masks.npz")


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


@pytest.mark.parametrize("name", ["", "few_classes_"])
def test_cells_of_scenes_match_cyborgs_release(cyborgs, name):
    labels, theirs = cyborgs[f"{name}mask"], cyborgs[f"{name}pooled_id"].long()
    cells = majority_labels(labels, num_labels=256, size=(7, 7))
    # The release knows ids below 81 alone.
    kept = cells < int(cyborgs["num_classes"])
    assert torch.equal(cells[kept], theirs[kept])
    assert kept.all() == (name == "few_classes_") and kept.sum() > 100


def test_pooling_weights_of_drawn_regions_match_cyborgs_release(cyborgs):
    masks = region_masks(cyborgs["pooled_id"].long(), cyborgs["sample_ids"].long())
    # Features that tell cells apart: what is pooled of them is the weight of each.
    cells = torch.eye(49).view(1, 49, 7, 7).expand(3, -1, -1, -1)
    assert torch.equal(pool_regions(cells, masks), cyborgs["forward_masks"])


def test_different_regions_are_drawn_as_often_as_by_cyborgs_release(cyborgs):
    cells, exists, draws = cyborgs["pooled_id"].long(), cyborgs["exists"], 400
    assert torch.equal(count_distinct(cells), exists.sum(1))
    enough = exists.sum(1) >= 16
    assert enough.any() and not enough.all()
    rows = cells[enough].repeat_interleave(draws, 0)
    uniforms = torch.rand(len(rows), 49, generator=torch.Generator().manual_seed(0))
    ids = sample_distinct_regions(rows, uniforms, count=16)
    assert (count_distinct(ids) == 16).all()
    ours = torch.zeros(len(rows), 81).scatter_(1, ids, 1.0).unflatten(0, (-1, draws)).sum(1)
    chance = 16 / exists[enough].sum(1, keepdim=True) * exists[enough]
    bound = 5 * (draws * chance * (1 - chance)).sqrt()
    for counts in (ours, cyborgs["sample_counts_400draws"][enough]):
        assert ((counts - draws * chance).abs() <= bound).all()


def test_every_set_of_different_regions_is_drawn_equally_often_however_small_they_are():
    cells = torch.tensor([[7, 7, 300, 7, 2, 7, 7, 5, 7]]).expand(12000, -1)
    uniforms = torch.rand(12000, 9, generator=torch.Generator().manual_seed(0))
    drawn = sample_distinct_regions(cells, uniforms, count=2)
    pairs, counts = drawn.unique(dim=0, return_counts=True)
    assert pairs.tolist() == [[a, b] for a in (2, 5, 7, 300) for b in (2, 5, 7, 300) if a != b]
    # Five standard deviations of a count.
    assert ((counts - 1000).abs() <= 5 * 1000**0.5).all()


def test_rows_with_too_few_regions_are_drawn_with_replacement_from_those_there_are(cyborgs):
    cells = torch.cat([cyborgs["few_classes_pooled_id"].long(), cyborgs["pooled_id"].long()])
    uniforms = torch.rand(6, 60, generator=torch.Generator().manual_seed(0))
    few = count_distinct(cells) < 16
    assert few[:3].all() and not few.all()
    drawn = sample_distinct_regions(cells, uniforms, count=16)
    assert torch.equal(drawn[few], sample_regions(cells, uniforms[:, :16])[few])
    assert all(set(ids) <= set(row) for ids, row in zip(drawn.tolist(), cells.tolist()))


def test_as_many_regions_as_cells_or_more_can_be_drawn():
    cells, uniforms = torch.tensor([[4, 1, 9, 6]]), torch.rand(1, 7)
    assert sample_distinct_regions(cells, uniforms, count=4).sort().values.tolist() == [[1, 4, 6, 9]]
    assert torch.equal(sample_distinct_regions(cells, uniforms, count=7), sample_regions(cells, uniforms))


def test_the_smallest_numbers_still_pick_different_regions():
    cells = torch.tensor([[8, 8, 8, 8, 8, 3, 5]])
    assert sample_distinct_regions(cells, torch.zeros(1, 7), count=3).sort().values.tolist() == [[3, 5, 8]]


def test_numbers_must_suffice_for_every_cell_and_every_draw():
    cells = torch.arange(6)[None]
    for too_few, count in ((5, 2), (6, 7)):
        with pytest.raises(AssertionError, match="a random number for every cell"):
            sample_distinct_regions(cells, torch.rand(1, too_few), count=count)
