import numpy as np
import pytest
from PIL import Image

from data.cityscapes import CITYSCAPES_CLASSES, TRAIN_IDS, CityscapesFolder
from utils.errors import DataError


@pytest.fixture
def street(tmp_path):
    """One scene of Frankfurt, 4 x 3 pixels, whose ids count up from 0."""
    for folder, end in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
        path = tmp_path / folder / "val" / "frankfurt" / f"frankfurt_000000_000294_{end}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(path)
    return CityscapesFolder(tmp_path)


def write_ids(street, ids):
    name = street.names("val")[0]
    Image.fromarray(np.asarray(ids, dtype=np.uint8)).save(street.labels_path("val", name))
    return name


def test_images_and_labels_are_found_by_their_name(street):
    (name,) = street.names("val")
    assert name == "frankfurt/frankfurt_000000_000294"
    assert street.image_path("val", name).is_file() and street.labels_path("val", name).is_file()


def test_the_first_ids_are_void_but_for_road_sidewalk_and_building(street):
    labels = street.segmentation("val", street.names("val")[0])
    assert labels.tolist() == [[255] * 4, [255, 255, 255, 0], [1, 255, 255, 2]]


def test_every_class_has_the_number_that_the_benchmark_gives_it(street):
    labels = street.segmentation("val", write_ids(street, [TRAIN_IDS]))
    assert labels.tolist() == [list(range(19))]
    assert [CITYSCAPES_CLASSES[k] for k in (0, 13, 15, 18)] == ["road", "car", "bus", "bicycle"]
    # By Cityscapes' labels.py: car is 26, bus 28, caravan 29 and trailer 30 are not judged.
    known = street.segmentation("val", write_ids(street, [[26, 28, 29, 30, 33]]))
    assert known.tolist() == [[13, 15, 255, 255, 18]]


@pytest.mark.parametrize("wrong", [34, 255])
def test_an_id_that_cityscapes_has_not_is_refused_by_the_files_name(street, wrong):
    name = write_ids(street, [[7, wrong]])
    with pytest.raises(DataError, match=f"{name}_gtFine_labelIds.png: a pixel of id {wrong}"):
        street.segmentation("val", name)


def test_a_missing_folder_or_an_empty_split_is_named(street, tmp_path):
    with pytest.raises(DataError, match="leftImg8bit: no such folder"):
        CityscapesFolder(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="leftImg8bit/test: no CITY"):
        street.names("test")
