import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from evaluation.coco_ap import Found, coco_ap
from tests.evaluation.slow_ap import slow_coco_ap
from utils.errors import DataError

SIDE, CLASSES = 100, 3
IMAGES = (4, 7, 9)


def runs(mask):
    encoded = coco_mask.encode(np.asfortranarray(mask))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def disc(x0, y0, x1, y1):
    """(SIDE, SIDE) uint8: the ellipse in a box."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    away = ((x - (x0 + x1) / 2) / ((x1 - x0) / 2)) ** 2 + ((y - (y0 + y1) / 2) / ((y1 - y0) / 2)) ** 2
    return (away <= 1).astype(np.uint8)


def draw_objects(rng, count):
    """(n, 4) boxes on whole pixels and (n,) labels."""
    corner, size = rng.integers(0, 60, (count, 2)), rng.integers(8, 40, (count, 2))
    return np.concatenate([corner, corner + size], axis=1).astype(float), rng.integers(0, CLASSES, count)


def write_truth(folder, objects, *, crowds=()):
    """Annotations of {image: (boxes, labels)}; `crowds` are (image, place) pairs. The categories' ids are 3, 6, 9."""
    annotations = []
    for image, (boxes, labels) in objects.items():
        for place, (box, label) in enumerate(zip(boxes, labels)):
            mask = disc(*box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 3 * (int(label) + 1),
                    "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
                    "area": float(mask.sum()),
                    "segmentation": runs(mask),
                    "iscrowd": int((image, place) in crowds),
                }
            )
    path = folder / "instances_val.json"
    images = [{"id": image, "file_name": f"{image}.jpg", "height": SIDE, "width": SIDE} for image in IMAGES]
    categories = [{"id": 3 * (label + 1), "name": "abc"[label]} for label in range(CLASSES)]
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    return path


def as_found(boxes, labels, scores, *, masks=True):
    return Found(boxes, np.asarray(scores, float), labels, [runs(disc(*box)) for box in boxes] if masks else None)


def shaken(rng, objects):
    """Detections that are the objects, moved, some twice, some with another class, some of nothing."""
    found = {}
    for image, (boxes, labels) in objects.items():
        twice = np.concatenate([np.arange(len(boxes)), rng.integers(0, len(boxes), 3)])
        moved = boxes[twice] + rng.integers(-4, 5, (len(twice), 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 2)
        other, guessed = draw_objects(rng, 2)
        own = np.where(rng.random(len(twice)) < 0.8, labels[twice], rng.integers(0, CLASSES, len(twice)))
        all_boxes = np.clip(np.concatenate([moved, other]), 0, SIDE)
        found[image] = as_found(all_boxes, np.concatenate([own, guessed]), rng.random(len(all_boxes)))
    return found


@pytest.fixture(scope="module")
def objects():
    rng = np.random.default_rng(0)
    return {image: draw_objects(rng, 6) for image in IMAGES}


@pytest.mark.parametrize("seed", range(3))
def test_ap_of_boxes_and_masks_is_that_of_a_slow_loop(tmp_path, objects, seed):
    found = shaken(np.random.default_rng(seed), objects)
    crowds = {(4, 1), (9, 0)}
    scores = coco_ap(write_truth(tmp_path, objects, crowds=crowds), found)
    for suffix in ("bb", "mk"):
        expected = slow_coco_ap(objects, found, crowds=crowds, masks=disc if suffix == "mk" else None)
        got = [scores.metrics[name + suffix] for name in ("AP", "AP50", "AP75")]
        assert got == pytest.approx([expected.mean(), expected[0], expected[5]], abs=1e-9)
        assert 0.05 < got[0] < 0.95


def test_the_objects_themselves_score_1_in_every_metric(tmp_path, objects):
    found = {image: as_found(boxes, labels, np.ones(len(labels))) for image, (boxes, labels) in objects.items()}
    scores = coco_ap(write_truth(tmp_path, objects), found)
    assert {"APbb", "AP50bb", "AP75bb", "APmk", "AP50mk", "AP75mk"} <= scores.metrics.keys()
    assert all(value == pytest.approx(1) for value in scores.metrics.values())
    assert scores.classes["APbb"] == pytest.approx({"a": 1, "b": 1, "c": 1})


def test_sizes_without_objects_are_left_out(tmp_path, objects):
    found = {4: as_found(*objects[4], np.ones(6), masks=False)}
    metrics = coco_ap(write_truth(tmp_path, objects), found).metrics
    # All are below 32 x 32, which is small.
    assert metrics.keys() == {"APbb", "AP50bb", "AP75bb", "APsbb"}


@pytest.mark.parametrize("found", [{}, {7: Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), [])}])
def test_nothing_found_scores_0(tmp_path, objects, found):
    metrics = coco_ap(write_truth(tmp_path, objects), found).metrics
    assert metrics["APbb"] == 0 and all(value == 0 for value in metrics.values())
    assert ("APmk" in metrics) == bool(found)


def test_a_detection_in_a_crowd_is_neither_right_nor_wrong(tmp_path):
    objects = {4: (np.array([[0.0, 0, 50, 50], [60, 60, 90, 90]]), np.array([0, 0]))}
    path = write_truth(tmp_path, objects, crowds={(4, 0)})
    right = as_found(objects[4][0][1:], np.array([0]), [0.5], masks=False)
    in_crowd = as_found(np.array([[5.0, 5, 20, 20], [60, 60, 90, 90]]), np.array([0, 0]), [0.9, 0.5], masks=False)
    beside = as_found(np.array([[5.0, 60, 20, 80], [60, 60, 90, 90]]), np.array([0, 0]), [0.9, 0.5], masks=False)
    assert [coco_ap(path, {4: one}).metrics["APbb"] for one in (right, in_crowd, beside)] == pytest.approx([1, 1, 0.5])


def test_what_the_file_does_not_list_is_refused(tmp_path, objects):
    path = write_truth(tmp_path, objects)
    with pytest.raises(DataError, match="lists no image 5"):
        coco_ap(path, {5: as_found(*objects[4], np.ones(6))})
    with pytest.raises(DataError, match="3 classes, but objects of class 3"):
        coco_ap(path, {4: Found(np.ones((1, 4)), np.ones(1), np.array([3]))})
    with pytest.raises(DataError, match="no object in it"):
        coco_ap(write_truth(tmp_path, {}), {})
