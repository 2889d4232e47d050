import numpy as np
import pytest

from data.object_sets import ImageObjects
from evaluation.coco_ap import Found, coco_ap
from evaluation.voc_ap import THRESHOLDS, average_precision, box_overlaps, match_class, voc_ap
from tests.evaluation.slow_ap import overlap, slow_voc_ap
from tests.evaluation.test_coco_ap import CLASSES, IMAGES, SIDE, as_found, draw_objects, shaken, write_truth
from utils.errors import DataError

NAMES = ("a", "b", "c")


def truth_of(boxes, labels, difficult=None):
    difficult = np.zeros(len(labels), bool) if difficult is None else np.asarray(difficult)
    return ImageObjects(np.asarray(boxes, float).reshape(-1, 4), np.asarray(labels, int), difficult, (SIDE, SIDE))


@pytest.fixture(scope="module")
def objects():
    rng = np.random.default_rng(1)
    return {image: draw_objects(rng, 8) for image in IMAGES}


@pytest.mark.parametrize("eleven_points", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_ap_is_that_of_a_slow_loop(objects, seed, eleven_points):
    rng = np.random.default_rng(seed)
    found = shaken(rng, objects)
    truths = {image: truth_of(*own, rng.random(8) < 0.3) for image, own in objects.items()}
    scores = voc_ap(truths, found, NAMES, eleven_points=eleven_points)
    expected = np.array(
        [
            [slow_voc_ap(truths, found, label, t, eleven_points=eleven_points) for t in THRESHOLDS]
            for label in range(CLASSES)
        ]
    )
    assert [scores.metrics[name] for name in ("AP", "AP50", "AP75")] == pytest.approx(
        [expected.mean(), expected[:, 0].mean(), expected[:, 5].mean()]
    )
    assert scores.classes["AP50"] == pytest.approx(dict(zip(NAMES, expected[:, 0])))
    assert 0.05 < scores.metrics["AP"] < 0.95


def test_with_whole_precision_it_is_cocos(tmp_path, objects):
    # Each class' detections are all right, and find half or all of its objects: every definition has the same area but for
    # recalls counted in hundredths.
    truths = {image: truth_of(*own) for image, own in objects.items()}
    found = {image: as_found(*own, np.linspace(0.1, 1, 8), masks=False) for image, own in list(objects.items())[:2]}
    ours = voc_ap(truths, found, NAMES, eleven_points=False).metrics
    cocos = coco_ap(write_truth(tmp_path, objects), found).metrics
    assert 0.4 < ours["AP"] < 0.9
    for name in ("AP", "AP50", "AP75"):
        assert ours[name] == pytest.approx(cocos[f"{name}bb"], abs=0.01)


@pytest.mark.parametrize("eleven_points", [True, False])
def test_the_objects_themselves_score_1_and_nothing_0(objects, eleven_points):
    truths = {image: truth_of(*own) for image, own in objects.items()}
    found = {image: as_found(*own, np.ones(8), masks=False) for image, own in objects.items()}
    assert voc_ap(truths, found, NAMES, eleven_points=eleven_points).metrics == pytest.approx(
        {"AP": 1, "AP50": 1, "AP75": 1}
    )
    none = {IMAGES[0]: Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))}
    for found in ({}, none):
        assert set(voc_ap(truths, found, NAMES, eleven_points=eleven_points).metrics.values()) == {0.0}


def test_a_difficult_object_counts_neither_found_nor_missed():
    boxes = [[0, 0, 20, 20], [40, 40, 60, 60]]
    truths = {1: truth_of(boxes, [0, 0], [True, False])}
    both = as_found(np.array(boxes, float), np.array([0, 0]), [0.9, 0.5], masks=False)
    second = as_found(np.array(boxes[1:], float), np.array([0]), [0.5], masks=False)
    for found in (both, second):
        assert voc_ap(truths, {1: found}, ("a",), eleven_points=True).metrics["AP"] == pytest.approx(1)


def test_a_second_detection_of_an_object_is_a_miss_though_another_object_is_near():
    # Both overlap the first object most; VOC, unlike COCO, does not give the second detection the next best.
    truths = {1: truth_of([[0, 0, 20, 20], [3, 0, 23, 20]], [0, 0])}
    found = {1: as_found(np.array([[0.0, 0, 20, 20], [1, 0, 21, 20]]), np.array([0, 0]), [0.9, 0.8], masks=False)}
    matches = match_class(truths, found, 0)
    assert matches.hits[:, 0].tolist() == [True, False] and matches.misses[:, 0].tolist() == [False, True]
    assert average_precision(matches, eleven_points=False)[0] == pytest.approx(0.5)


def test_an_overlap_of_exactly_the_threshold_is_not_enough():
    truths = {1: truth_of([[0, 0, 10, 20]], [0])}
    found = {1: as_found(np.array([[0.0, 0, 10, 10]]), np.array([0]), [0.9], masks=False)}
    assert voc_ap(truths, found, ("a",), eleven_points=True).metrics["AP50"] == 0


def test_a_class_without_objects_is_left_out():
    truths = {1: truth_of([[0, 0, 10, 20]], [1])}
    found = {1: as_found(np.array([[0.0, 0, 10, 20], [0, 0, 9, 9]]), np.array([1, 0]), [0.9, 0.8], masks=False)}
    scores = voc_ap(truths, found, ("a", "b"), eleven_points=True)
    assert scores.metrics["AP"] == pytest.approx(1) and scores.classes["AP50"].keys() == {"b"}


def test_overlaps_are_those_of_each_pair_and_0_of_empty_boxes():
    rng = np.random.default_rng(0)
    one, other = draw_objects(rng, 5)[0], draw_objects(rng, 4)[0]
    expected = [[overlap(a, b) for b in other] for a in one]
    assert np.allclose(box_overlaps(one, other), expected) and np.max(expected) > 0.1
    assert box_overlaps(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [[0]]
    assert box_overlaps(one, np.zeros((0, 4))).shape == (5, 0)


def test_what_there_is_not_is_refused():
    truths = {1: truth_of([[0, 0, 10, 20]], [0])}
    one = as_found(np.array([[0.0, 0, 10, 20]]), np.array([2]), [0.9], masks=False)
    with pytest.raises(DataError, match="no image 5"):
        voc_ap(truths, {5: one}, NAMES, eleven_points=True)
    with pytest.raises(DataError, match="beyond the 2 of data.classes"):
        voc_ap(truths, {1: one}, ("a", "b"), eleven_points=True)
    with pytest.raises(DataError, match="nothing to find"):
        voc_ap({1: truth_of([[0, 0, 1, 1]], [0], [True])}, {}, NAMES, eleven_points=True)
