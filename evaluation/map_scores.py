"""How well one label map fits the objects or segments that people drew in its image, and many maps together."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import distance_transform_edt

from data.label_maps import dense_labels

# Of the image's diagonal: BSDS's.
TOLERANCE = 0.0075


class MapScore(NamedTuple):
    """One label map beside what P people drew, in sums that add up over images.

    labels: how many the map has.
    objects: a person's objects, the mean over people.
    overlap: the sum of their best overlaps, the mean over people.
    drawn, right: the map's boundary pixels, and those of them near any person's boundary.
    wanted, found: boundary pixels of all people, and those of them near the map's.
    rand: adjusted Rand index, the mean over people.
    """

    labels: int
    objects: float
    overlap: float
    drawn: int
    right: int
    wanted: int
    found: int
    rand: float


class MaskQuality(NamedTuple):
    """Label maps of many images.

    best_iou: intersection over union of an object and the region that fits it best, the mean over all objects; an object
        that one of P people drew counts 1 / P. NaN where there is no object.
    boundary_f: harmonic mean of precision (boundary pixels of the maps that lie near anybody's) and recall (boundary pixels
        of all people that lie near the map's), each counted over all images; 1 where there is no boundary at all.
    ari: adjusted Rand index, the mean over an image's people, then over images; the background counts as one segment.
    labels_per_image: mean.
    images: how many.
    """

    best_iou: float
    boundary_f: float
    ari: float
    labels_per_image: float
    images: int


def summarise(scores: Sequence[MapScore]) -> MaskQuality:
    """The quality of N >= 1 maps."""
    table = np.array(scores, dtype=np.float64)
    sums = MapScore(*table.sum(0))
    return MaskQuality(
        best_iou=float(sums.overlap / sums.objects) if sums.objects else float("nan"),
        boundary_f=_boundary_f(sums),
        ari=float(sums.rand / len(table)),
        labels_per_image=float(sums.labels / len(table)),
        images=len(table),
    )


def _boundary_f(sums: MapScore) -> float:
    if not sums.right:
        return float(sums.drawn == sums.wanted == 0)
    precision, recall = sums.right / sums.drawn, sums.found / sums.wanted
    return float(2 * precision * recall / (precision + recall))


def score_map(
    labels: np.ndarray, truths: Sequence[np.ndarray], *, background: bool, tolerance: float = TOLERANCE
) -> MapScore:
    """Score a label map; which numbers its labels and the truths' segments have changes nothing.

    Args:
        labels: (H, W) integers.
        truths: P >= 1 of (H, W) integers, what each person drew.
        background: whether a truth's 0 is no object; it has boundaries and is a segment all the same.
        tolerance: how far apart boundaries may be, as a share of the diagonal.
    Source: BSDS500 (Arbelaez et al., TPAMI 2011) for boundaries. Differs: several pixels may lie near the same one, where its
        benchmark pairs them off, and a map has no threshold to choose.
    """
    tables = [contingency(truth, labels) for truth in truths]
    overlaps = [best_overlaps(table)[int(background and truth.min() == 0) :] for table, truth in zip(tables, truths)]
    own, theirs = find_boundaries(labels), [find_boundaries(truth) for truth in truths]
    reach = tolerance * np.hypot(*labels.shape)
    near_own = near(own, reach)
    return MapScore(
        labels=len(np.unique(labels)),
        objects=float(np.mean([len(person) for person in overlaps])),
        overlap=float(np.mean([person.sum() for person in overlaps])),
        drawn=int(own.sum()),
        right=int((own & near(np.any(theirs, axis=0), reach)).sum()),
        wanted=sum(int(person.sum()) for person in theirs),
        found=sum(int((person & near_own).sum()) for person in theirs),
        rand=float(np.mean([adjusted_rand_index(table) for table in tables])),
    )


def best_overlaps(table: np.ndarray) -> np.ndarray:
    """(O, M) pixels that segment o and label m share -> (O,) float64, each segment's largest intersection over union."""
    union = table.sum(1, keepdims=True) + table.sum(0) - table
    return (table / union).max(axis=1)


def adjusted_rand_index(table: np.ndarray) -> float:
    """Pairs of pixels that two maps agree on, given their `contingency`: 1 for the same map, 0 for what chance gives.

    Source: Hubert and Arabie, Comparing partitions, Journal of Classification 1985.
    """
    both, first, second, every = (
        float((counts * (counts - 1) // 2).sum()) for counts in (table, table.sum(1), table.sum(0), table.sum())
    )
    expected = first * second / every
    highest = (first + second) / 2
    return 1.0 if highest == expected else (both - expected) / (highest - expected)


def contingency(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(labels of first, labels of second) int64, both in rising order: how many pixels have both; two maps of one shape."""
    (first, rows), (second, columns) = dense_labels(first), dense_labels(second)
    pairs = first.ravel().astype(np.int64) * columns + second.ravel()
    return np.bincount(pairs, minlength=rows * columns).reshape(rows, columns)


def find_boundaries(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels whose label is not that of the next one on the right or below."""
    boundary = np.zeros(labels.shape, dtype=bool)
    boundary[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    boundary[:-1] |= labels[:-1] != labels[1:]
    return boundary


def near(boundary: np.ndarray, reach: float) -> np.ndarray:
    """(H, W) bool: the pixels within `reach` pixels of a boundary (H, W) bool."""
    # Without a boundary, SciPy measures distances to nowhere.
    return distance_transform_edt(~boundary) <= reach if boundary.any() else boundary
