import itertools
import math
import warnings

import numpy as np
import pytest

from evaluation.map_scores import MaskQuality, find_boundaries, near, score_map, summarise


def blocks(rng: np.random.Generator, count: int) -> np.ndarray:
    """(12, 16) of 4 x 4 blocks, each of one of `count` labels, from 0."""
    return np.kron(rng.integers(count, size=(3, 4)), np.ones((4, 4), dtype=np.int64))


@pytest.fixture(params=range(3))
def scene(request) -> tuple[np.ndarray, list[np.ndarray]]:
    """A map and what three people drew, background included."""
    rng = np.random.default_rng(request.param)
    return blocks(rng, 5), [blocks(rng, count) for count in (2, 3, 4)]


def slow_overlaps(labels, truth, background):
    best = []
    for thing in sorted(set(truth.flat) - ({0} if background else set())):
        regions = [labels == label for label in set(labels.flat)]
        best.append(max(np.sum(one & (truth == thing)) / np.sum(one | (truth == thing)) for one in regions))
    return best


def slow_boundary(labels):
    """Places whose label differs from that on their right or below."""
    height, width = labels.shape
    return [
        (y, x)
        for y, x in itertools.product(range(height), range(width))
        if any(y + a < height and x + b < width and labels[y, x] != labels[y + a, x + b] for a, b in ((0, 1), (1, 0)))
    ]


def slow_near(places, others, reach):
    return sum(any(math.dist(place, other) <= reach for other in others) for place in places)


def slow_rand(first, second):
    """(agreeing pairs - expected) / (largest - expected), pair by pair."""
    pairs = np.triu_indices(first.size, k=1)
    one, other = (labels.ravel()[pairs[0]] == labels.ravel()[pairs[1]] for labels in (first, second))
    expected = one.sum() * other.sum() / one.size
    return ((one & other).sum() - expected) / ((one.sum() + other.sum()) / 2 - expected)


@pytest.mark.parametrize("background", [True, False])
def test_best_overlaps_are_those_of_trying_every_label_on_every_object(scene, background):
    labels, truths = scene
    for truth in truths:
        score, expected = score_map(labels, [truth], background=background), slow_overlaps(labels, truth, background)
        assert (score.objects, score.overlap) == (len(expected), pytest.approx(sum(expected), rel=1e-12))


def test_a_truth_without_background_keeps_its_first_object():
    truth = np.array([[3, 3, 7, 7]])
    assert score_map(truth, [truth], background=True)[1:3] == (2, 2)


# Of a diagonal of 20 pixels: neighbours, also aslant, and further away.
@pytest.mark.parametrize("tolerance", [0.05, 0.08, 0.16])
def test_boundary_pixels_are_counted_as_by_measuring_every_distance(scene, tolerance):
    labels, truths = scene
    score, reach = score_map(labels, truths, background=True, tolerance=tolerance), tolerance * 20
    own, theirs = slow_boundary(labels), [slow_boundary(truth) for truth in truths]
    assert (score.drawn, score.wanted) == (len(own), sum(map(len, theirs)))
    # A pixel of the map is right where anybody drew one; each person's own are to be found.
    assert score.right == slow_near(own, list(itertools.chain(*theirs)), reach)
    assert score.found == sum(slow_near(person, own, reach) for person in theirs)


def test_the_rand_index_is_that_of_counting_pairs_and_the_mean_over_people(scene):
    labels, truths = scene
    expected = np.mean([slow_rand(labels, truth) for truth in truths])
    assert score_map(labels, truths, background=True).rand == pytest.approx(expected)


def test_numbering_labels_and_objects_otherwise_changes_nothing(scene):
    labels, truths = scene
    other = score_map(
        np.array([40, 9, 300, 0, 7])[labels], [np.array([0, 60, 5, 8])[truth] for truth in truths], background=True
    )
    assert other == pytest.approx(score_map(labels, truths, background=True))


def test_the_truth_itself_scores_one(scene):
    for truth in scene[1]:
        quality = summarise([score_map(truth, [truth], background=True)])
        assert quality[:3] == pytest.approx((1, 1, 1)) and quality.labels_per_image == len(np.unique(truth))


def test_one_region_finds_no_boundary_and_overlaps_an_object_by_its_share_of_the_image():
    truth = np.zeros((12, 16), dtype=np.int64)
    truth[:6, :8], truth[6:, 8:12] = 1, 2
    quality = summarise([score_map(np.zeros_like(truth), [truth], background=True)])
    assert quality == pytest.approx(MaskQuality((48 + 24) / 2 / 192, 0, 0, 1, 1))


def test_an_image_without_objects_or_boundaries_has_no_overlap_and_no_fault():
    nothing = np.zeros((12, 16), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quality = summarise([score_map(nothing, [nothing], background=True)])
    assert math.isnan(quality.best_iou) and quality.boundary_f == quality.ari == 1


def test_boundaries_drawn_where_there_are_none_are_wrong(scene):
    nothing = np.zeros((12, 16), dtype=np.int64)
    assert summarise([score_map(scene[0], [nothing], background=True)]).boundary_f == 0


def test_objects_and_boundaries_count_over_all_images():
    halves = np.repeat([[1, 2]], 8, axis=1).repeat(12, axis=0)
    quarters = np.repeat([[0, 1, 2, 3]], 4, axis=1).repeat(12, axis=0)
    whole = np.zeros_like(halves)
    # First image: a third of the boundary pixels is right, which two people drew. Second: one person's are not found.
    scores = [score_map(quarters, [halves, halves], background=True), score_map(whole, [halves], background=True)]
    quality = summarise(scores)
    precision, recall = 12 / 36, 24 / 36
    assert quality.boundary_f == pytest.approx(2 * precision * recall / (precision + recall))
    assert quality.best_iou == pytest.approx(0.5) and quality.images == 2 and quality.labels_per_image == 2.5


def test_what_one_of_several_people_drew_counts_for_their_share():
    halves = np.repeat([[1, 2]], 8, axis=1).repeat(12, axis=0)
    quarters = np.repeat([[1, 2, 3, 4]], 4, axis=1).repeat(12, axis=0)
    two, one = (score_map(halves, truths, background=True) for truths in ([halves, quarters], [halves]))
    assert (two.objects, two.overlap) == (3, 2) and (one.objects, one.overlap) == (2, 2)
    assert summarise([two, one]).best_iou == pytest.approx(4 / 5)


def test_nothing_is_near_no_boundary():
    boundary = find_boundaries(np.zeros((3, 4), dtype=np.uint8))
    assert not boundary.any() and not near(boundary, 100).any()
