import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.pooling import pool_regions, soft_masks
from models.regions import cluster_superpixels, kmeans, merge_superpixels
from tests.losses.allocations import Allocations
from tests.paths import REFERENCE


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    with np.load(REFERENCE / "r2o_kmeans.npz") as arrays:
        return {key: torch.as_tensor(arrays[key]) for key in arrays.files}


def everyone(points: torch.Tensor) -> torch.Tensor:
    return torch.ones(points.shape[:2], dtype=torch.bool)


def slow_kmeans(points: torch.Tensor, start: torch.Tensor, iterations: int) -> torch.Tensor:
    """Lloyd's algorithm point by point, centroids in the open."""
    centroids = start.clone()
    for _ in range(iterations + 1):
        labels = torch.tensor([int((point - centroids).square().sum(1).argmin()) for point in points])
        for k in range(len(centroids)):
            if (labels == k).any():
                centroids[k] = points[labels == k].mean(0)
    return labels


@pytest.mark.parametrize("case", ["a", "b", "a_pp", "b_pp"])
def test_labels_match_the_release_from_the_same_start(reference, case):
    points, start = reference[f"{case[0]}_x"][None], reference[f"{case}_init"][None]
    labels = kmeans(points, everyone(points), num_clusters=start.shape[1], start=start)
    assert torch.equal(labels[0], reference[f"{case}_labels"])


@pytest.mark.parametrize("case", ["do", "doz"])
def test_refinement_matches_the_release_from_the_same_start(reference, case):
    superpixels, features = reference[f"{case}_slic"].long(), reference[f"{case}_feats"]
    labels, absent = reference[f"{case}_labels"], reference[f"{case}_absent"]
    masks = soft_masks(superpixels, num_labels=labels.shape[1], size=(14, 14))
    assert torch.equal(masks.sum(-1) == 0, absent)
    points = F.normalize(pool_regions(features, masks), dim=-1).flatten(0, 1)[None]
    start = points[:, reference[f"{case}_init_idx"]]
    # The release clusters absent superpixels too, as zero vectors.
    ours = kmeans(points, everyone(points), num_clusters=start.shape[1], start=start).view_as(labels)
    assert torch.equal(ours[~absent], labels[~absent])
    regions = merge_superpixels(superpixels, labels, size=(56, 56), soft_labels=True)
    assert torch.equal(regions, reference[f"{case}_converted_idx"].long())


def test_each_pixel_takes_its_superpixels_cluster(reference):
    superpixels, labels = reference["do_slic"].long(), reference["do_labels"]
    regions = merge_superpixels(superpixels, labels, size=(56, 56))
    for image, own, region in zip(superpixels, labels, regions):
        assert torch.equal(region, own[image[2::4, 2::4]])
    soft = merge_superpixels(superpixels, labels, size=(56, 56), soft_labels=True)
    assert (soft != regions).float().mean() > 0.02  # the release's invented regions are what this avoids


def test_a_group_is_clustered_as_if_it_were_alone():
    points = torch.randn(3, 20, 5)
    start = points[:, :4]
    together = kmeans(points, everyone(points), num_clusters=4, start=start)
    for group, (own, first) in enumerate(zip(points, start)):
        assert torch.equal(together[group], slow_kmeans(own, first, iterations=25))


def test_invalid_points_take_no_part():
    points = torch.randn(1, 20, 5)
    valid = everyone(points)
    valid[0, 12:] = False
    start = points[:, :3]
    labels = kmeans(points, valid, num_clusters=3, start=start)
    moved = points.clone()
    moved[0, 12:] += 100
    assert torch.equal(labels[valid], kmeans(moved, valid, num_clusters=3, start=start)[valid])
    assert torch.equal(labels[valid], slow_kmeans(points[0, :12], start[0], iterations=25))


def test_an_empty_cluster_does_not_pull_every_label_to_itself(reference):
    points, start = reference["nan_x"][None], reference["nan_init"][None]
    assert reference["nan_labels"].unique().numel() == 1  # what the release makes of it
    labels = kmeans(points, everyone(points), num_clusters=4, start=start)
    assert torch.equal(labels[0], slow_kmeans(points[0], start[0], iterations=25))
    assert labels.unique().numel() > 1


@pytest.mark.parametrize("distinct", [1, 3])
def test_more_clusters_than_distinct_points_keeps_them_apart(distinct):
    points = F.normalize(torch.randn(distinct, 6), dim=1).repeat(5, 1)[None]
    labels = kmeans(points, everyone(points), num_clusters=8, draws=torch.rand(1, 8))[0]
    assert labels.view(5, distinct).unique(dim=0).shape[0] == 1
    assert labels.unique().numel() == distinct


def test_fewer_points_than_clusters_each_get_their_own():
    points = torch.randn(2, 5, 6)
    labels = kmeans(points, everyone(points), num_clusters=127, draws=torch.rand(2, 127))
    assert [row.unique().numel() for row in labels] == [5, 5]


def test_plus_plus_finds_well_separated_clusters():
    centres = 10 * torch.eye(6)
    points = centres.repeat_interleave(15, 0)[None] + 0.1 * torch.randn(1, 90, 6)
    for draw in range(10):
        labels = kmeans(
            points,
            everyone(points),
            num_clusters=6,
            draws=torch.rand(1, 6, generator=torch.Generator().manual_seed(draw)),
        )
        assert labels.view(6, 15).unique(dim=1).shape[1] == 1
        assert labels.unique().numel() == 6


def test_plus_plus_draws_in_proportion_to_squared_distance():
    # From the first point, the second is 1 away and the third 2: they are drawn next with odds 1 : 4.
    points = torch.tensor([[[0.0], [1.0], [-2.0]]]).expand(4000, 3, 1)
    draws = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0))
    draws[:, 0] = 0.0
    start_labels = kmeans(points, everyone(points), num_clusters=2, draws=draws, max_iter=0)
    # With the third point drawn, the second stays with the first one's cluster.
    third_drawn = (start_labels[:, 1] == start_labels[:, 0]).float().mean().item()
    assert third_drawn == pytest.approx(0.8, abs=0.03)


def test_the_points_alone_give_the_clusters_that_all_pairs_give():
    torch.manual_seed(0)
    points, valid = torch.randn(3, 80, 5), torch.rand(3, 80) > 0.2
    for given in ({"draws": torch.rand(3, 6)}, {"start": points[:, :6]}):
        for max_iter in (0, 2, 25):
            options = {"num_clusters": 6, "max_iter": max_iter} | given
            pairs = kmeans(points, valid, **options)
            alone = kmeans(points, valid, pairwise=False, **options)
            assert torch.equal(alone[valid], pairs[valid])


def test_without_pairs_too_a_crowd_of_equal_points_is_one_and_a_near_one_is_another():
    torch.manual_seed(0)
    crowds = F.normalize(torch.randn(30, 1, 50), dim=-1)
    points = torch.cat([crowds.expand(-1, 3000, -1), crowds + 1e-3], dim=1)
    # Rounding puts each of the crowd at a distance from the others, in sum as far as the last one's.
    labels = kmeans(points, everyone(points), num_clusters=2, draws=torch.rand(30, 2), pairwise=False)
    assert (labels[:, :-1] == labels[:, :1]).all() and (labels[:, -1] != labels[:, 0]).all()


def test_without_pairs_memory_grows_with_the_points_and_not_with_their_square():
    N, D, K = 3000, 20, 12
    points, draws = torch.randn(1, N, D), torch.rand(1, K, dtype=torch.float64)
    with Allocations() as allocations:
        kmeans(points, everyone(points), num_clusters=K, draws=draws, max_iter=3, pairwise=False)
    assert N * K < allocations.peak < 5 * N * (K + D)
    with Allocations() as allocations:
        kmeans(points, everyone(points), num_clusters=K, draws=draws, max_iter=3)
    assert allocations.peak > N * N


def test_draws_in_float64_are_looked_up_among_sums_in_float64():
    points = torch.tensor([[[0.0], [1.0]]])
    # In float32 it would be one half, where the second point begins.
    draws = torch.tensor([[0.5 - 1e-12, 0.5]], dtype=torch.float64)
    for pairwise in (True, False):
        labels = kmeans(points, everyone(points), num_clusters=2, draws=draws, max_iter=0, pairwise=pairwise)
        assert labels.tolist() == [[0, 1]]
        labels = kmeans(points, everyone(points), num_clusters=2, draws=draws.float(), max_iter=0, pairwise=pairwise)
        assert labels.tolist() == [[1, 0]]


def test_clusters_depend_on_the_images_of_the_group_alone():
    features, present = torch.randn(6, 9, 4), torch.rand(6, 9) > 0.2
    seeds = torch.arange(6) + 100
    keywords = dict(num_clusters=5, images_per_group=2)
    whole = cluster_superpixels(features, present, seeds=seeds, **keywords)
    halves = [
        cluster_superpixels(features[part], present[part], seeds=seeds[part], **keywords)
        for part in (slice(0, 2), slice(2, 6))
    ]
    assert torch.equal(whole, torch.cat(halves))
    assert torch.equal(whole == -1, ~present)


def test_a_last_group_may_be_smaller():
    features, present = torch.randn(5, 9, 4), torch.ones(5, 9, dtype=torch.bool)
    whole = cluster_superpixels(features, present, seeds=torch.arange(5), num_clusters=5, images_per_group=4)
    last = cluster_superpixels(features[4:], present[4:], seeds=torch.tensor([4]), num_clusters=5, images_per_group=4)
    assert torch.equal(whole[4:], last)
