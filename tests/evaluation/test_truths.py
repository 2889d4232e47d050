import argparse
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from evaluation.truths import CocoObjects, HumanSegments, add_truth_arguments, chosen_truth, find_truth
from utils.errors import DataError


def box(x: int, y: int, w: int, h: int) -> list[list[int]]:
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


@pytest.fixture
def annotations(tmp_path):
    content = {
        "images": [
            {"id": 7, "file_name": "a.jpg", "height": 6, "width": 8},
            {"id": 3, "file_name": "b.jpg", "height": 2, "width": 2},
        ],
        "categories": [{"id": 1}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "segmentation": box(0, 0, 2, 2)},
            {"id": 2, "image_id": 7, "category_id": 1, "segmentation": box(0, 0, 4, 4), "iscrowd": 0},
            {
                "id": 3,
                "image_id": 7,
                "category_id": 1,
                "segmentation": {"size": [6, 8], "counts": [0, 48]},
                "iscrowd": 1,
            },
        ],
    }
    path = tmp_path / "annotations" / "instances_train.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    return path


def test_objects_lie_smaller_on_larger_and_crowds_are_background(annotations):
    expected = np.zeros((6, 8), dtype=int)
    expected[:4, :4] = 1
    expected[:2, :2] = 2
    truth = CocoObjects(annotations)
    for name in ("a.jpg", "folder/a.jpg"):
        (found,) = truth(name)
        assert np.array_equal(found, expected)
    assert truth.background and truth("b.jpg")[0].tolist() == [[0, 0], [0, 0]]


def test_annotations_reach_a_worker_of_its_own(annotations):
    assert np.array_equal(
        pickle.loads(pickle.dumps(CocoObjects(annotations)))("a.jpg"), CocoObjects(annotations)("a.jpg")
    )


def test_annotations_that_cannot_be_used_are_refused(annotations):
    with pytest.raises(DataError, match=r"names no image c\.jpg"):
        CocoObjects(annotations)("c.jpg")
    with pytest.raises(DataError, match="nowhere.json: No such file"):
        CocoObjects(annotations.with_name("nowhere.json"))
    for content in ("{", "[]", '{"annotations": []}', '{"images": [{}]}'):
        annotations.write_text(content)
        with pytest.raises(DataError, match="no COCO annotations"):
            CocoObjects(annotations)


def test_a_malformed_object_is_named(annotations):
    content = json.loads(annotations.read_text())
    content["annotations"][0]["segmentation"] = 5
    annotations.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"a\.jpg: no objects of COCO's kind"):
        CocoObjects(annotations)("a.jpg")


def save(path, labels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(labels))
    if options:
        image.putpalette([9, 9, 9, 200, 0, 0])
    image.save(path)


@pytest.fixture
def segments(tmp_path):
    folder = tmp_path / "segments" / "train"
    for person in (1, 0):
        save(folder / "12" / f"a_{person}.png", np.full((3, 4), person, dtype=np.uint8))
    save(folder / "12_3.png", np.array([[0, 1], [1, 0]], dtype=np.uint8), palette=True)
    save(folder / "deep_0.png", np.array([[0, 999]], dtype=np.uint16))
    return folder


def test_segmentations_are_those_of_every_person_in_order(segments):
    truth = HumanSegments(segments)
    assert [one.tolist() for one in truth("12/a.jpg")] == [[[0] * 4] * 3, [[1] * 4] * 3]
    assert [one.tolist() for one in truth("12_3.jpg")] == [[[0, 1], [1, 0]]]
    assert truth("deep.tif")[0].tolist() == [[0, 999]] and not truth.background


def test_segmentations_that_cannot_be_used_are_refused(segments):
    truth = HumanSegments(segments)
    with pytest.raises(DataError, match=r"neither b\.png nor b_K\.png there for the image b\.jpg"):
        truth("b.jpg")
    save(segments / "12" / "a_1.png", np.zeros((4, 3), dtype=np.uint8))
    with pytest.raises(DataError, match="a_0.png 4 x 3, a_1.png 3 x 4"):
        truth("12/a.jpg")
    save(segments / "12_3.png", np.zeros((4, 3, 3), dtype=np.uint8))
    with pytest.raises(DataError, match="12_3.png: .* labels are"):
        truth("12_3.jpg")
    (segments / "12_3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="12_3.png"):
        truth("12_3.jpg")
    with pytest.raises(DataError, match="no PNG there"):
        HumanSegments(segments / "nowhere")


def test_the_truth_beside_the_images_is_found(tmp_path, annotations, segments):
    assert find_truth(tmp_path, "train")("a.jpg")[0].shape == (6, 8)
    annotations = annotations.rename(annotations.with_name("instances_train2017.json"))
    assert isinstance(find_truth(tmp_path, "train"), CocoObjects)
    annotations.unlink()
    assert len(find_truth(tmp_path, "train")("12/a.jpg")) == 2
    with pytest.raises(DataError, match="neither annotations/instances_val.json nor segments/val there$"):
        find_truth(tmp_path, "val")


def test_the_command_line_may_name_one_truth(annotations, segments, capsys):
    parser = argparse.ArgumentParser()
    add_truth_arguments(parser)

    def chosen(*options):
        return chosen_truth(parser.parse_args(list(map(str, options))))

    assert chosen() is None
    assert isinstance(chosen("--annotations", annotations), CocoObjects)
    assert isinstance(chosen("--segments", segments), HumanSegments)
    with pytest.raises(SystemExit):
        chosen("--annotations", annotations, "--segments", segments)
