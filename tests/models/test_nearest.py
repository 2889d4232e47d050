import pytest
import torch
import torch.nn.functional as F

from models.nearest import NearestRows, nearest, top_places
from tests.models.published import load_reference


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    return load_reference("orl_knn.npz")


def whole_numbers(*shape: int) -> torch.Tensor:
    """Features of few values, so that most products are equal to another, and exact however they are summed."""
    return torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(0)).float()


def slow_nearest(queries: torch.Tensor, bank: torch.Tensor, own: list[int], count: int) -> torch.Tensor:
    """A loop over queries and over the whole bank."""
    rows = []
    for query, place in zip(queries.double(), own):
        candidates = [
            (-float(query @ row), other)
            for other, row in enumerate(bank.double())
            if other != place and row.isfinite().all() and query.isfinite().all()
        ]
        chosen = [other for _, other in sorted(candidates)[:count]]
        rows.append(chosen + [-1] * (count - len(chosen)))
    return torch.tensor(rows)


@pytest.mark.parametrize("block", [1, 7, 12, 60, 1000])
def test_neighbours_are_the_published_ones(reference, block):
    found = nearest(reference["bank"], reference["bank"], own=torch.arange(60), count=10, block=block)
    assert torch.equal(found, reference["knn"])


def test_an_image_is_no_neighbour_of_its_own_but_its_duplicates_are(reference):
    bank, copies = reference["dup_bank"], reference["dup_rows"].tolist()
    found = nearest(bank, bank, own=torch.arange(60), count=10, block=16)
    assert not (found == torch.arange(60)[:, None]).any()
    for place in copies:
        assert found[place, :2].tolist() == [copy for copy in copies if copy != place]


@pytest.mark.parametrize("count", [1, 5, 11])
@pytest.mark.parametrize("block", [1, 3, 16, 40, 64])
def test_equal_neighbours_come_by_place_whatever_the_block(block, count):
    bank = whole_numbers(40, 3)
    own = torch.arange(40)
    found = nearest(bank, bank, own=own, count=count, block=block)
    assert torch.equal(found, slow_nearest(bank, bank, own.tolist(), count))


def test_queries_that_are_a_part_of_the_bank_find_what_all_would():
    bank = F.normalize(whole_numbers(50, 8), dim=1)
    own = torch.tensor([3, 49, 0, 22])
    every = nearest(bank, bank, own=torch.arange(50), count=6, block=13)
    assert torch.equal(nearest(bank[own], bank, own=own, count=6, block=50), every[own])


def test_a_query_from_outside_of_the_bank_leaves_nothing_out():
    bank = torch.eye(4)
    assert nearest(bank[2:3], bank, own=torch.tensor([-1]), count=2, block=2).tolist() == [[2, 0]]


@pytest.mark.parametrize("damage", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("block", [2, 9, 30])
def test_images_without_features_have_no_neighbours_and_are_nobodys(damage, block):
    bank = whole_numbers(30, 4)
    # More than there are spare candidates, and few images left; a zero times infinity must not slip through.
    damaged = torch.arange(30) % 5 != 2
    bank[damaged, torch.arange(30)[damaged] % 4] = damage
    own = torch.arange(30)
    found = nearest(bank, bank, own=own, count=4, block=block)
    assert torch.equal(found, slow_nearest(bank, bank, own.tolist(), 4))
    assert (found[damaged] == -1).all() and not damaged[found[~damaged]].any()


@pytest.mark.parametrize("block", [1, 2, 8])
def test_places_are_empty_where_too_few_images_are_left(block):
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [torch.nan, 0.0], [0.6, 0.8]])
    found = nearest(bank, bank, own=torch.arange(4), count=4, block=block)
    assert found.tolist() == [[3, 1, -1, -1], [3, 0, -1, -1], [-1] * 4, [1, 0, -1, -1]]


def test_a_bank_of_nothing_and_a_query_of_nothing_are_allowed():
    features = torch.eye(3)
    assert nearest(features, features[:0], own=torch.full((3,), -1), count=2, block=4).tolist() == [[-1, -1]] * 3
    assert nearest(features[:0], features, own=torch.arange(0), count=2, block=4).shape == (0, 2)


def test_rounding_of_the_fast_product_does_not_order_neighbours():
    bank = torch.stack([torch.ones(6), 2.0**-26 * torch.arange(6)], dim=1)
    query = torch.ones(1, 2)
    assert len((query @ bank.T).unique()) < len(bank)
    found = nearest(query, bank, own=torch.tensor([-1]), count=4, block=3)
    assert found.tolist() == [[5, 4, 3, 2]]


@pytest.mark.parametrize("cuts", [[], [1], [4, 5, 30]])
def test_rows_that_come_block_by_block_are_found_as_a_stable_sort_finds_them(cuts):
    bank, queries = whole_numbers(40, 3), whole_numbers(9, 3)
    found = NearestRows(queries, count=6)
    for rows in bank.tensor_split(cuts):
        found.add(rows)
    similarity = queries @ bank.T
    expected = similarity.argsort(dim=1, descending=True, stable=True)[:, :6]
    assert torch.equal(found.places, expected) and torch.equal(found.values, similarity.gather(1, expected))


@pytest.mark.parametrize("shape", [(9,), (5, 30), (2, 3, 20)])
@pytest.mark.parametrize("values", [1, 2, 5])
def test_top_places_equal_a_stable_sort(shape, values):
    similarity = torch.randint(values, shape, generator=torch.Generator().manual_seed(1)).float()
    similarity[..., -1] = -torch.inf
    for count in (0, 1, 4, shape[-1]):
        expected = similarity.argsort(dim=-1, descending=True, stable=True)[..., :count]
        assert torch.equal(top_places(similarity, count), expected)
