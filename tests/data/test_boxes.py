import math
import random

import numpy as np
import pytest

from data.boxes import Jitter, filter_boxes, jitter_box, overlaps
from tests.paths import REFERENCE

AS_PUBLISHED = {"min_size": 96, "max_ratio": 3, "max_iou": 0.5, "top_n": 100}


@pytest.fixture(scope="module")
def reference():
    return dict(np.load(REFERENCE / "orl_boxes.npz"))


def random_boxes(rng, count, width=400, height=300):
    """(count, 4) uint16, whole boxes inside the image."""
    edges = np.sort(rng.integers(0, [[[width + 1], [height + 1]]], (count, 2, 2)), axis=2)
    edges[edges[..., 0] == edges[..., 1]] = (0, 1)
    return np.concatenate([edges[..., 0], edges[..., 1] - edges[..., 0]], axis=1).astype(np.uint16)


def counted_pixels(first, second):
    """Intersection over union by counting pixels."""
    masks = np.zeros((2, 320, 420), bool)
    for mask, (x, y, w, h) in zip(masks, (first, second)):
        mask[y : y + h, x : x + w] = True
    return (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()


def test_overlaps_are_the_published_ones(reference):
    for (first, second), expected in zip(reference["iou_pairs"], reference["iou"]):
        assert overlaps(first[None], second) == pytest.approx([expected], abs=1e-15)
    found = overlaps(reference["maxiou_boxes"].astype(np.uint16), reference["maxiou_gt"])
    assert found.shape == (20,) and found.max() == reference["maxiou"]


def test_overlaps_equal_counted_pixels():
    boxes = random_boxes(np.random.default_rng(0), 12)
    for box in boxes:
        assert overlaps(boxes, box).tolist() == [counted_pixels(other, box) for other in boxes]


def test_16_bit_areas_do_not_overflow_and_no_area_overlaps_nothing():
    large = np.array([[0, 0, 60000, 60000], [30000, 0, 60000, 60000], [5, 5, 0, 0]], np.uint16)
    assert overlaps(large, large[0]).tolist() == pytest.approx([1, 1 / 3, 0])
    assert overlaps(large[2:], large[2]).tolist() == [0]
    assert overlaps(large[:0], large[0]).shape == (0,)


@pytest.mark.parametrize("case", range(5))
def test_filtered_boxes_are_the_published_ones(reference, case):
    boxes, expected = (
        reference[name][slice(*reference[f"{name}_offset"][case : case + 2])] for name in ("filter_in", "filter_out")
    )
    off = (0, math.inf, len(boxes), 1)
    parameters = reference["filter_params_minsize_maxratio_topn_iouthr"][case]
    parameters = [none if math.isnan(value) else value for value, none in zip(parameters, off)]
    options = dict(zip(("min_size", "max_ratio", "top_n", "max_iou"), parameters))
    for dtype in (np.int64, np.uint16):
        found = filter_boxes(boxes.astype(dtype), **options)
        assert found.dtype == dtype and np.array_equal(found, expected)


def filter_slowly(boxes, *, min_size, max_ratio, max_iou, top_n):
    kept = []
    for box in boxes.tolist():
        _, _, w, h = box
        is_right = min(w, h) >= min_size and max(w, h) / min(w, h) <= max_ratio
        if is_right and all(counted_pixels(box, other) <= max_iou for other in kept):
            kept.append(box)
    return (kept or boxes[:1].tolist())[:top_n]


@pytest.mark.parametrize("options", [AS_PUBLISHED, {"min_size": 20, "max_ratio": 1.5, "max_iou": 0.2, "top_n": 5}])
def test_filtering_equals_a_slow_loop(options):
    boxes = random_boxes(np.random.default_rng(1), 80)
    found = filter_boxes(boxes, **options)
    assert len(found) > 2 and found.tolist() == filter_slowly(boxes, **options)


def test_kept_boxes_are_in_their_order_and_filtering_again_changes_nothing():
    boxes = random_boxes(np.random.default_rng(2), 300)
    found = filter_boxes(boxes, **AS_PUBLISHED)
    places = [np.flatnonzero((boxes == box).all(1))[0] for box in found]
    assert places == sorted(places)
    assert np.array_equal(filter_boxes(found, **AS_PUBLISHED), found)
    assert np.array_equal(filter_boxes(boxes, **{**AS_PUBLISHED, "top_n": 3}), found[:3])


def test_numbers_at_the_limit_are_kept():
    boxes = np.array([[0, 0, 96, 288], [0, 0, 192, 288]], np.uint16)
    assert overlaps(boxes[:1], boxes[1]) == [0.5] and np.array_equal(filter_boxes(boxes, **AS_PUBLISHED), boxes)


def test_the_first_box_stands_in_where_none_is_right_and_no_boxes_stay_none():
    boxes = np.array([[1, 2, 3, 4], [0, 0, 90, 200]], np.uint16)
    assert filter_boxes(boxes, **AS_PUBLISHED).tolist() == [[1, 2, 3, 4]]
    assert filter_boxes(boxes[:0], **AS_PUBLISHED).shape == (0, 4)


class Counted(random.Random):
    """Python's numbers, counted."""

    drawn = 0

    def random(self):
        self.drawn += 1
        return super().random()


@pytest.mark.parametrize("case", range(30))
def test_jittered_boxes_are_the_published_ones_and_so_are_the_numbers_they_take(reference, case):
    min_iou = reference["aug_iou_thr"][case]
    spec = Jitter(min_iou=None if math.isnan(min_iou) else min_iou, attempts=int(reference["aug_attempt_num"][case]))
    rng = Counted(int(reference["aug_seed"][case]))
    width, height = reference["aug_img_wh"][case].tolist()
    found = jitter_box(rng, reference["aug_box"][case], width=width, height=height, spec=spec)
    assert list(found) == reference["aug_out"][case].tolist()
    assert rng.drawn == 4 * reference["aug_attempts_used"][case]
    assert rng.random() == reference["aug_next_random"][case]


@pytest.mark.parametrize("min_iou", [0.5, None])
def test_jittered_boxes_lie_inside_overlap_enough_and_move(min_iou):
    rng, spec, moved = np.random.default_rng(3), Jitter(min_iou=min_iou), 0
    for box in random_boxes(rng, 200):
        found = jitter_box(rng, box, width=400, height=300, spec=spec)
        assert all(type(value) is int for value in found)
        x, y, w, h = found
        assert x >= 0 and y >= 0 and min(w, h) >= 1 and x + w <= 400 and y + h <= 300
        assert overlaps(box[None], found)[0] > (min_iou or -1)
        moved += list(found) != box.tolist()
    assert moved > 100


def test_a_side_of_no_pixels_is_an_attempt_that_failed():
    rng = np.random.default_rng(4)
    spec = Jitter(min_iou=None, scale=(0.01, 0.3))
    assert {jitter_box(rng, (5, 5, 1, 1), width=9, height=9, spec=spec) for _ in range(20)} == {(5, 5, 1, 1)}


def test_jitter_keeps_to_its_shift_scale_and_ratio():
    spec, rng = Jitter(shift=0.1, scale=(1.2, 1.5), ratio=(1.9, 2.1), min_iou=None), np.random.default_rng(5)
    found = np.array([jitter_box(rng, (300, 300, 100, 80), width=900, height=900, spec=spec) for _ in range(100)])
    area, ratio = found[:, 2] * found[:, 3] / 8000, found[:, 2] / found[:, 3]
    assert (area > 1.18).all() and (area < 1.52).all() and (ratio > 1.85).all() and (ratio < 2.15).all()
    moves = found[:, :2] + found[:, 2:] / 2 - (350, 340)
    assert (np.abs(moves) <= (11, 9)).all() and (moves.max(0) > (7, 5)).all() and (moves.min(0) < (-7, -5)).all()
