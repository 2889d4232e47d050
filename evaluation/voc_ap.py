"""PASCAL VOC's average precision of boxes, by its rules of 2007 or of later years, at COCO's thresholds."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from data.object_sets import ImageObjects
from evaluation.coco_ap import Found, Scores
from evaluation.precision_recall import area_below_envelope, upper_envelope
from utils.errors import DataError

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
# Of VOC 2007's metric. Kept in the binary form that VOC's own code has: 0.1 + 0.1 + 0.1 lies above 0.3, and a recall of exactly
# 0.3 below it.
_RECALLS = np.arange(0.0, 1.1, 0.1)


class Matches(NamedTuple):
    """The detections of a class, best first, and how many objects there are to find.

    hits: (n, T) bool, the detection is the first of its object, for each threshold.
    misses: (n, T) bool; one that is neither found a difficult object.
    objects: objects that are not difficult.
    """

    hits: np.ndarray
    misses: np.ndarray
    objects: int


def voc_ap(
    truths: Mapping[int, ImageObjects], found: Mapping[int, Found], classes: tuple[str, ...], *, eleven_points: bool
) -> Scores:
    """Average precision, the mean over classes.

    Args:
        truths: image id -> the objects in it; all images of the test set.
        found: image id -> what was found; an image without counts as one with nothing found.
        eleven_points: the metric of VOC 2007, else the area under the curve.
    Returns:
        AP (mean over thresholds of overlap .5:.95), AP50 and AP75; and each class' AP50. A class without any object counts in
        neither.
    Raises:
        DataError: nothing to find at all, or a class or image in `found` that there is not.
    Source: VOC devkit; detectron2's PascalVOCDetectionEvaluator, which published figures come from. Differs: scores and boxes are
    not rounded to 3 and 1 decimals, and of equal scores the first stays first.
    """
    unknown = found.keys() - truths.keys()
    if unknown:
        raise DataError(f"the test set has no image {min(unknown)}, in which objects were found")
    if any(len(one.labels) and int(one.labels.max()) >= len(classes) for one in found.values()):
        raise DataError(
            f"objects of a class beyond the {len(classes)} of data.classes were found; the detector knows others"
        )
    precisions = {}
    for label, name in enumerate(classes):
        matches = match_class(truths, found, label)
        if matches.objects:
            precisions[name] = average_precision(matches, eleven_points=eleven_points)
    if not precisions:
        raise DataError("the test set has no object that is not difficult: there is nothing to find")
    means = np.mean(list(precisions.values()), axis=0)
    metrics = {"AP": means.mean(), "AP50": means[THRESHOLDS.index(0.5)], "AP75": means[THRESHOLDS.index(0.75)]}
    return Scores(
        {name: float(value) for name, value in metrics.items()},
        {"AP50": {name: float(values[0]) for name, values in precisions.items()}},
    )


def match_class(truths: Mapping[int, ImageObjects], found: Mapping[int, Found], label: int) -> Matches:
    """Match the detections of a class, each to the object of its class and image that it overlaps most."""
    scores, best, target = [], [], []
    offset, difficult = 0, []
    for image in sorted(truths):
        objects = truths[image]
        own = objects.labels == label
        difficult.append(objects.difficult[own])
        if image in found and (rows := found[image].labels == label).any():
            overlaps = box_overlaps(found[image].boxes[rows], objects.boxes[own])
            scores.append(found[image].scores[rows])
            best.append(overlaps.max(1, initial=0.0))
            target.append(offset + (overlaps.argmax(1) if own.any() else np.zeros(int(rows.sum()), int)))
        offset += int(own.sum())
    difficult = np.concatenate(difficult) if difficult else np.zeros(0, bool)
    num_objects = int((~difficult).sum())
    if not scores:
        return Matches(*np.zeros((2, 0, len(THRESHOLDS)), bool), num_objects)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    best, target = np.concatenate(best)[order], np.concatenate(target)[order]
    return Matches(*_first_hits(best, target, difficult), num_objects)


def average_precision(matches: Matches, *, eleven_points: bool) -> np.ndarray:
    """(T,) average precision at each threshold; 0 where nothing was found."""
    hits, misses = matches.hits.cumsum(0), matches.misses.cumsum(0)
    # Before the first hit or miss, detections found difficult objects alone.
    precision = hits / np.maximum(hits + misses, np.finfo(np.float64).eps)
    if not eleven_points:
        return area_below_envelope(precision, hits, total=matches.objects)
    reached = (hits / matches.objects)[:, None] >= _RECALLS[:, None]
    return (reached * upper_envelope(precision)[:, None]).max(0, initial=0.0).mean(0)


def box_overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n, 4) and (m, 4) boxes -> (n, m) intersection over union."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(2)
    areas = [np.clip(side[:, 2:] - side[:, :2], 0, None).prod(1) for side in (boxes, others)]
    either = areas[0][:, None] + areas[1][None] - both
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)


def _first_hits(best: np.ndarray, target: np.ndarray, difficult: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, T) hits and misses of detections in order of their scores.

    Args:
        best: (n,) overlap with the object that each overlaps most; target: (n,) which object that is.
        difficult: (m,) of all objects.
    """
    hits, misses = np.zeros((2, len(best), len(THRESHOLDS)), bool)
    for place, threshold in enumerate(THRESHOLDS):
        near = best > threshold
        misses[~near, place] = True
        rows = np.flatnonzero(near)
        rows = rows[~difficult[target[rows]]]
        # Of those that chose the same object the first is the hit, the others are misses.
        _, first = np.unique(target[rows], return_index=True)
        misses[rows, place] = True
        hits[rows[first], place], misses[rows[first], place] = True, False
    return hits, misses
