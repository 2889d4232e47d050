import itertools
import json
import pickle

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from data.coco_objects import coco_path, read_coco, require_scorable
from data.object_sets import require_equal_classes
from utils.errors import DataError

SQUARE = [[1, 1, 5, 1, 5, 4, 1, 4]]  # columns 1 to 4, rows 1 to 3


def annotation(number, *, box=(1, 1, 4, 3), image=7, category=2, outline=SQUARE, **more):
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": list(box),
        "segmentation": outline,
        "iscrowd": 0,
    } | more


@pytest.fixture
def folder(tmp_path):
    """Writes a dataset of two images of 8 x 6 pixels, of which the second has no object."""

    def write(annotations, **changes):
        content = {
            "images": [
                {"id": 9, "file_name": "empty.jpg", "height": 6, "width": 8},
                {"id": 7, "file_name": "a.jpg", "height": 6, "width": 8},
            ],
            "categories": [{"id": 5, "name": "cat"}, {"id": 2, "name": "dog"}],
            "annotations": annotations,
        } | changes
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "images" / "train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(content))
        return tmp_path

    return write


def read(folder, *, masks=True, keep_empty=False):
    return read_coco(folder, "train", masks=masks, keep_empty=keep_empty)


def test_boxes_have_two_corners_and_labels_count_from_0_by_category_id(folder):
    found = read(folder([annotation(1), annotation(2, category=5, box=(0, 0, 8, 6))]))
    objects = found.objects(0)
    assert objects.boxes.tolist() == [[1, 1, 5, 4], [0, 0, 8, 6]] and objects.labels.tolist() == [0, 1]
    assert found.classes == ("dog", "cat") and objects.size == (6, 8) and not objects.difficult.any()
    assert found.path(0) == found.root / "a.jpg" and found.ids.tolist() == [7]


def test_images_without_objects_stay_only_where_asked_for(folder):
    place = folder([annotation(1)])
    assert len(read(place)) == 1
    kept = read(place, keep_empty=True)
    assert kept.ids.tolist() == [7, 9] and kept.objects(1).boxes.shape == (0, 4) and kept.masks(1).shape == (0, 6, 8)


def test_crowds_are_left_out(folder):
    found = read(folder([annotation(1), annotation(2, iscrowd=1)]))
    assert len(found.objects(0).boxes) == 1 and found.dropped == 0


@pytest.mark.parametrize("box", [(1, 1, 0, 3), (9, 1, 2, 2), (-5, 0, 5, 3), (1, 1, float("nan"), 2)])
def test_a_box_that_is_empty_or_outside_its_image_is_left_out_and_counted(folder, box, caplog):
    found = read(folder([annotation(1), annotation(2, box=box)]))
    assert len(found.objects(0).boxes) == 1 and found.dropped == 1 and "1 objects are left out" in caplog.text


def test_a_box_that_leaves_its_image_is_cut_to_it(folder):
    assert read(folder([annotation(1, box=(-2, 4, 20, 20))])).objects(0).boxes.tolist() == [[0, 4, 8, 6]]


def test_masks_of_polygons_and_of_run_lengths_of_both_kinds_agree(folder):
    expected = np.zeros((6, 8), np.uint8)
    expected[1:4, 1:5] = 1
    packed = coco_mask.encode(np.asfortranarray(expected))
    packed["counts"] = packed["counts"].decode()
    counts = [len(list(run)) for _, run in itertools.groupby(expected.ravel(order="F"))]
    plain = {"size": [6, 8], "counts": counts}
    found = read(folder([annotation(1), annotation(2, outline=packed), annotation(3, outline=plain)]))
    assert np.array_equal(found.masks(0), np.stack([expected] * 3))
    assert np.array_equal(pickle.loads(pickle.dumps(found)).masks(0), found.masks(0))


@pytest.mark.parametrize("outline", [[], [[1, 1, 2, 2]], None])
def test_an_object_without_a_usable_outline_is_left_out_where_masks_are_needed(folder, outline):
    place = folder([annotation(1), annotation(2, outline=outline)])
    assert len(read(place).objects(0).boxes) == 1 and read(place).dropped == 1
    assert len(read(place, masks=False).objects(0).boxes) == 2


def test_a_damaged_outline_is_refused_when_it_is_drawn(folder):
    found = read(folder([annotation(1, outline={"size": [3, 3], "counts": [9]})]))
    with pytest.raises(DataError, match="instances_train.json.*size"):
        found.masks(0)


def test_a_set_read_without_outlines_has_none(folder):
    with pytest.raises(DataError, match="model.masks"):
        read(folder([annotation(1)]), masks=False).masks(0)


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ([annotation(1, image=4)], "annotation 1 is of image 4"),
        ([annotation(1, category=3)], "annotation 1 is of category 3"),
        ([annotation(1, box=(1, 2))], "annotation 1: the box"),
        ([{"id": 1}], "no COCO annotations"),
        ([annotation(1, iscrowd=1)], "no image with an object"),
    ],
)
def test_annotations_that_make_no_sense_are_refused_by_name(folder, annotations, message):
    with pytest.raises(DataError, match=message):
        read(folder(annotations))


def test_a_missing_file_and_missing_images_are_refused(folder, tmp_path):
    with pytest.raises(DataError, match="instances_train.json.*check data.dir"):
        read(tmp_path)
    place = folder([annotation(1)])
    (place / "images" / "train").rmdir()
    (place / "images").rmdir()
    with pytest.raises(DataError, match="no images; looked for"):
        read(place)


def test_other_classes_in_the_test_set_are_refused(folder):
    one = read(folder([annotation(1)]))
    other = read(folder([annotation(1)], categories=[{"id": 2, "name": "dog"}]))
    with pytest.raises(DataError, match="2 classes to train on and 1 to be tested on .* number 1 .*'cat' and None"):
        require_equal_classes(one, other)
    require_equal_classes(one, one)


def test_a_test_sets_objects_must_have_what_they_are_judged_by(folder):
    path = coco_path(folder([annotation(1, area=12)]), "train")
    require_scorable(path, masks=True)
    for key in ("area", "iscrowd", "segmentation"):
        one = {name: value for name, value in annotation(4, area=12).items() if name != key}
        folder([annotation(1, area=12), one])
        with pytest.raises(DataError, match=f"annotation 4 has no {key}, without which"):
            require_scorable(path, masks=True)
    require_scorable(path, masks=False)
    folder([])
    with pytest.raises(DataError, match="no object in it"):
        require_scorable(path, masks=False)


def test_an_id_that_is_no_number_is_refused(folder):
    with pytest.raises(DataError, match="the id 'seven' of one of its images is no whole number"):
        read(folder([], images=[{"id": "seven", "file_name": "a.jpg", "height": 6, "width": 8}]))
