"""How often both boxes of a matched pair show objects of one class, beside chance."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.boxes import overlaps
from data.correspondence import Correspondence
from data.listing import ImageList
from utils.errors import DataError
from utils.files import read_json

# A box shows an object that it overlaps at least this much.
_LEAST_IOU = 0.5


class Objects(NamedTuple):
    """M objects of an image.

    boxes: (M, 4), x, y, w, h in pixels.
    classes: (M,) int64, from 0.
    """

    boxes: np.ndarray
    classes: np.ndarray


class Shares(NamedTuple):
    """Of pairs of boxes.

    objects: share of the pairs in which both boxes show an object; NaN where there is no pair.
    same_class: share of these in which both show the same class; NaN where there are none.
    """

    objects: float
    same_class: float


class PairScores(NamedTuple):
    """The matched pairs beside what chance gives, in expectation.

    matched: the pairs themselves.
    neighbours: as many pairs for each image and neighbour, of any box of the one and any of the other.
    anywhere: any two boxes of all images, drawn independently.
    """

    matched: Shares
    neighbours: Shares
    anywhere: Shares

    def __str__(self) -> str:
        lines = {"matched pairs": self.matched, "chance, same images": self.neighbours, "chance, any": self.anywhere}
        return "\n".join(
            f"{name:<20} both an object {shares.objects:6.1%}, of these the same class {shares.same_class:6.1%}"
            for name, shares in lines.items()
        )


def same_class_share(correspondence: Correspondence, objects: list[Objects]) -> PairScores:
    """Score the matched pairs of N images; `objects` are those of each image."""
    return PairScores(_matched(correspondence, objects), *_chance(correspondence, objects))


def _matched(correspondence: Correspondence, objects: list[Objects]) -> Shares:
    others = correspondence.neighbours.ravel()
    K = correspondence.neighbours.shape[1]
    both = same = 0
    for row, pairs in enumerate(correspondence.pairs):
        ours, theirs = classify(pairs[:, :4], objects[row // K]), classify(pairs[:, 4:], objects[others[row]])
        shown = (ours >= 0) & (theirs >= 0)
        both += shown.sum()
        same += (ours == theirs)[shown].sum()
    return _shares(len(correspondence.pairs.values), both, same)


def _chance(correspondence: Correspondence, objects: list[Objects]) -> tuple[Shares, Shares]:
    """Among the boxes of neighbouring images, and among all boxes."""
    counts = _class_counts(correspondence, objects)
    boxes, shown = correspondence.boxes.lengths, counts.sum(1)
    rows = np.flatnonzero(correspondence.pairs.lengths)
    images, others = rows // correspondence.neighbours.shape[1], correspondence.neighbours.ravel()[rows]
    pairs = correspondence.pairs.lengths[rows]
    # Of all combinations of two images' boxes, each is as likely.
    weight = pairs / (boxes[images] * boxes[others])
    both, same = weight @ (shown[images] * shown[others]), weight @ (counts[images] * counts[others]).sum(1)
    total = counts.sum(0)
    return _shares(pairs.sum(), both, same), _shares(boxes.sum() ** 2, total.sum() ** 2, (total**2).sum())


def _class_counts(correspondence: Correspondence, objects: list[Objects]) -> np.ndarray:
    """(N, C) float64: how many boxes of an image show a class."""
    num_classes = 1 + max((int(one.classes.max()) for one in objects if len(one.classes)), default=0)
    counts = np.zeros((len(objects), num_classes))
    for image, boxes in enumerate(correspondence.boxes):
        classes = classify(boxes, objects[image])
        counts[image] = np.bincount(classes[classes >= 0], minlength=num_classes)
    return counts


def _shares(pairs: float, both: float, same: float) -> Shares:
    return Shares(float(both / pairs) if pairs else np.nan, float(same / both) if both else np.nan)


def classify(boxes: np.ndarray, objects: Objects) -> np.ndarray:
    """(n,) int64: for each box (n, 4) the class of the object that it overlaps most, -1 where that is too little."""
    if len(objects.boxes) == 0:
        return np.full(len(boxes), -1)
    overlap = np.stack([overlaps(boxes, box) for box in objects.boxes], axis=1)
    return np.where(overlap.max(1) >= _LEAST_IOU, objects.classes[overlap.argmax(1)], -1)


def read_objects(annotations: str | Path, images: ImageList) -> list[Objects]:
    """The objects of each image of a listing, but for crowds, from COCO's annotations.

    Raises:
        DataError: no such file, no COCO annotations, or images that it does not name.
    """
    try:
        content = read_json(annotations)
        classes = {place: number for number, place in enumerate(sorted(entry["id"] for entry in content["categories"]))}
        found = {entry["id"]: [] for entry in content["images"]}
        ids = {entry["file_name"]: entry["id"] for entry in content["images"]}
        for entry in content["annotations"]:
            if not entry.get("iscrowd"):
                found[entry["image_id"]].append((*entry["bbox"], classes[entry["category_id"]]))
    except OSError as error:
        raise DataError(f"{annotations}: {error.strerror}; it must be an instances_*.json of these images") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{annotations}: no COCO annotations of objects: {type(error).__name__} {error}") from error
    names = [images.name(index) for index in range(len(images))]
    missing = [name for name in names if name not in ids and Path(name).name not in ids]
    if missing:
        raise DataError(f"{annotations}: does not name {len(missing)} of {len(images)} images, such as {missing[0]}")
    return [_objects(found[ids[name] if name in ids else ids[Path(name).name]]) for name in names]


def _objects(entries: list[tuple]) -> Objects:
    table = np.array(entries, dtype=float).reshape(-1, 5)
    return Objects(table[:, :4], table[:, 4].astype(np.int64))
