import pytest
import torch
import torch.nn.functional as F

from models.box_pairs import match_boxes
from tests.models.published import load_reference

NUM_SCENES = 4


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    return load_reference("orl_correspondence.npz")


def pooled(features: torch.Tensor) -> torch.Tensor:
    """(B, C, 2, 2) -> (B, C) unit vectors."""
    return F.normalize(features.mean((2, 3)), dim=1)


def scene(reference: dict, number: int) -> tuple[torch.Tensor, list[torch.Tensor], float]:
    """An image's features, those of its neighbours, and the share."""
    neighbours = range(int(reference[f"s{number}_num_knn"]))
    keys = [pooled(reference[f"s{number}_knn{k}_feat"]) for k in neighbours]
    return pooled(reference[f"s{number}_feat"]), keys, float(reference[f"s{number}_ratio"])


def unit_rows(count: int, dim: int = 6, *, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("number", range(NUM_SCENES))
def test_pairs_are_the_published_ones_in_their_order(reference, number, dtype):
    query, keys, share = scene(reference, number)
    matches = match_boxes(query.to(dtype), [boxes.to(dtype) for boxes in keys], share=share)
    assert len(matches) == len(keys)
    for k, (ours, theirs) in enumerate(matches):
        assert torch.equal(ours, reference[f"s{number}_knn{k}_query_idx"])
        assert torch.equal(theirs, reference[f"s{number}_knn{k}_key_idx"])
        boxes = torch.cat([reference[f"s{number}_bbox"][ours], reference[f"s{number}_knn{k}_bbox"][theirs]], dim=1)
        assert torch.equal(boxes, reference[f"s{number}_knn{k}_pairs"])


@pytest.mark.parametrize("sign", [1, -1])
def test_pairs_equal_a_loop_over_combinations_with_neighbours_of_every_size(sign):
    # Where no pair is similar, what pads a smaller neighbour would be.
    query, keys = unit_rows(25).abs(), [sign * unit_rows(size, seed=size).abs() for size in (3, 0, 40, 1, 8)]
    for (ours, theirs), boxes in zip(match_boxes(query, keys, share=0.2), keys):
        combinations = [(-float(a @ b), i, j) for i, a in enumerate(query) for j, b in enumerate(boxes)]
        expected = [(i, j) for _, i, j in sorted(combinations)[:5]]
        assert list(zip(ours.tolist(), theirs.tolist())) == expected


@pytest.mark.parametrize(
    ("boxes", "share", "pairs"), [(1, 0.1, 1), (19, 0.1, 1), (20, 0.1, 2), (30, 0.1, 3), (7, 0.5, 3)]
)
def test_a_tenth_of_the_images_own_boxes_is_kept_at_least_one(boxes, share, pairs):
    for size in (1, 50):
        ((ours, theirs),) = match_boxes(unit_rows(boxes), [unit_rows(size, seed=1)], share=share)
        assert len(ours) == len(theirs) == pairs


def test_equal_pairs_come_by_place():
    query, key = torch.ones(30, 1), torch.ones(4, 1)
    ((ours, theirs),) = match_boxes(query, [key], share=0.2)
    assert (ours.tolist(), theirs.tolist()) == ([0, 0, 0, 0, 1, 1], [0, 1, 2, 3, 0, 1])


def test_there_are_no_more_pairs_than_combinations():
    (few, none) = match_boxes(-torch.ones(4, 1), [torch.ones(2, 1), torch.ones(0, 1)], share=5)
    assert list(zip(*(places.tolist() for places in few))) == [(i, j) for i in range(4) for j in range(2)]
    assert [len(places) for places in none] == [0, 0]


def test_an_image_or_neighbours_without_boxes_have_no_pairs():
    empty, some = unit_rows(0), unit_rows(5)
    assert match_boxes(some, []) == []
    for query, keys in ((empty, [some, empty]), (some, [empty, empty]), (empty, [empty])):
        matches = match_boxes(query, keys)
        assert len(matches) == len(keys)
        assert all(places.shape == (0,) and places.dtype == torch.int64 for pair in matches for places in pair)


def test_similarity_is_computed_in_float32_whatever_the_stores_precision():
    # Products of these halves differ by less than a half can tell.
    query = torch.tensor([[1.0, 0.0009765625]], dtype=torch.float16)
    keys = torch.tensor([[1.0, 0.0], [1.0, 0.25], [1.0, 0.125]], dtype=torch.float16)
    assert len((query @ keys.T).unique()) < 3
    ((_, theirs),) = match_boxes(query, [keys], share=3)
    assert theirs.tolist() == [1, 2, 0]
