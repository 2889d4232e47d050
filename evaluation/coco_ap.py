"""COCO's average precision of boxes and masks, by pycocotools."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from evaluation.truths import open_coco
from utils.errors import DataError

# Name -> place among COCOeval's twelve numbers.
_STATS = {"AP": 0, "AP50": 1, "AP75": 2, "APs": 3, "APm": 4, "APl": 5}
_KINDS = {"bb": "bbox", "mk": "segm"}


class Found(NamedTuple):
    """What a detector found in one image, any order.

    boxes: (n, 4) float, (x0, y0, x1, y1) in pixels of the image; x1 and y1 are where a box ends.
    scores: (n,) float.
    labels: (n,) int, the class from 0.
    masks: n compressed run lengths as COCO's JSON has them, {"size": [H, W], "counts": str}; None without masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: list[dict] | None = None


class Scores(NamedTuple):
    metrics: dict[str, float]  # such as APbb, AP50bb, APmk; shares in [0, 1]
    classes: dict[str, dict[str, float]]  # metric -> class -> AP of the classes that have objects


def coco_ap(annotations: str | Path, found: dict[int, Found]) -> Scores:
    """Average precision over all images of a file, of boxes, and of masks if `found` has them.

    Args:
        annotations: an instances_*.json; crowds count neither as found nor as missed.
        found: image id -> what was found in it; an image without counts as one with nothing found.
    Returns:
        AP (mean over IoU .5:.95), AP50, AP75, and APs, APm, APl by size, where the file has objects of that size.
    Raises:
        DataError: a file without objects, or an image or class in `found` that it does not list.
    """
    truth = open_coco(annotations)
    images, categories = set(truth.getImgIds()), sorted(truth.getCatIds())
    if not truth.anns:
        raise DataError(f"{annotations}: no object in it, so that there is nothing to find")
    unknown = found.keys() - images
    if unknown:
        raise DataError(f"{annotations}: lists no image {min(unknown)}, in which objects were found")
    labels = {int(label) for one in found.values() for label in one.labels}
    if labels and not 0 <= min(labels) <= max(labels) < len(categories):
        raise DataError(
            f"{annotations}: {len(categories)} classes, but objects of class {max(labels)} (from 0) were found: the detector "
            "was made for another dataset"
        )
    with_masks = any(one.masks is not None for one in found.values())
    metrics, classes = {}, {}
    for suffix in ("bb", "mk") if with_masks else ("bb",):
        entries = _entries(found, categories, masks=suffix == "mk")
        own, classes[f"AP{suffix}"] = _evaluate(truth, entries, kind=_KINDS[suffix])
        metrics |= {f"{name}{suffix}": value for name, value in own.items()}
    return Scores(metrics, classes)


def _entries(found: dict[int, Found], categories: Sequence[int], *, masks: bool) -> list[dict]:
    """COCO's list of results; image by image, so that it does not depend on who found what when."""
    entries = []
    for image in sorted(found):
        one = found[image]
        for place, (x0, y0, x1, y1) in enumerate(one.boxes.tolist()):
            entry = {
                "image_id": image,
                "category_id": categories[int(one.labels[place])],
                "score": float(one.scores[place]),
            }
            # With a box beside it, pycocotools would measure a mask's size by the box.
            entries.append(
                entry | ({"segmentation": one.masks[place]} if masks else {"bbox": [x0, y0, x1 - x0, y1 - y0]})
            )
    return entries


def _evaluate(truth: COCO, entries: list[dict], *, kind: str) -> tuple[dict[str, float], dict[str, float]]:
    with contextlib.redirect_stdout(io.StringIO()):
        # pycocotools cannot read an empty list.
        results = truth.loadRes(entries) if entries else _nothing(truth)
        evaluator = COCOeval(truth, results, kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    # pycocotools says -1 where there was nothing to find.
    metrics = {name: float(evaluator.stats[place]) for name, place in _STATS.items() if evaluator.stats[place] >= 0}
    # (T, R, K, A, M): of all sizes, with the most detections.
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    names = [truth.cats[number]["name"] for number in evaluator.params.catIds]
    means = {
        name: precision[:, :, place].mean() for place, name in enumerate(names) if (precision[:, :, place] > -1).any()
    }
    return metrics, {name: float(value) for name, value in means.items()}


def _nothing(truth: COCO) -> COCO:
    empty = COCO()
    empty.dataset = {"images": truth.dataset["images"], "categories": truth.dataset["categories"], "annotations": []}
    empty.createIndex()
    return empty
