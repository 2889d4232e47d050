import numpy as np
import pytest
from PIL import Image

from data.cityscapes import TRAIN_IDS
from data.demo_shapes import CATEGORY_NAMES
from data.labelled_images import class_labels
from data.listing import find_images
from data.voc import VocFolder
from evaluation.truths import open_coco
from tools.make_demo_data import DemoData, make_demo_data
from tools.make_eval_data import make_eval_data
from utils.errors import DataError, UserError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    scenes, layouts = tmp_path_factory.mktemp("scenes"), tmp_path_factory.mktemp("layouts")
    make_demo_data(scenes, DemoData(num_train=24, num_val=24, size=48, seed=1), workers=1)
    assert make_eval_data(scenes, layouts)
    return scenes, layouts


@pytest.fixture
def coco(folders):
    return open_coco(folders[0] / "annotations" / "instances_val.json")


def test_voc_has_the_objects_of_the_scenes(folders, coco):
    voc = VocFolder(folders[1] / "voc", CATEGORY_NAMES)
    names, labels = voc.image_labels("val")
    assert names == voc.names("val", "Segmentation") and len(names) == 24
    for number, (name, row) in enumerate(zip(names, labels), start=1):
        things, found = coco.imgToAnns[number], voc.objects(name)
        boxes = np.array([thing["bbox"] for thing in things])
        np.testing.assert_allclose(found.boxes, np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]))
        assert found.labels.tolist() == [thing["category_id"] - 1 for thing in things]
        assert set(np.flatnonzero(row >= 0)) == set(found.labels)
        assert set(np.flatnonzero(row == 1)) == set(found.labels[~found.difficult])


def test_segmentations_are_the_scenes_but_for_void_borders(folders):
    voc = VocFolder(folders[1] / "voc", CATEGORY_NAMES)
    ids = {train_id: label for label, train_id in enumerate(TRAIN_IDS)}
    for name in voc.names("val", "Segmentation")[:8]:
        stem = name.removeprefix("val_")
        with Image.open(folders[0] / "segmentations" / "val" / f"{stem}.png") as picture:
            truth = np.asarray(picture)
        labels = voc.segmentation(name)
        certain = labels != 255
        assert 0.5 < certain.mean() < 1
        np.testing.assert_array_equal(labels[certain], truth[certain])
        path = folders[1] / "cityscapes" / "gtFine" / "val" / "demo" / f"demo_{stem}_gtFine_labelIds.png"
        with Image.open(path) as picture:
            city = np.asarray(picture)
        np.testing.assert_array_equal(np.vectorize(ids.get)(city[certain]), truth[certain])
        assert not city[~certain].any()


def test_every_object_is_an_image_of_its_class(folders, coco):
    train, val = (find_images(folders[1] / "imagenet", split=split) for split in ("train", "val"))
    assert len(val) == len(coco.getAnnIds())
    classes, _ = class_labels(train, val)
    assert classes == sorted(CATEGORY_NAMES)
    few = find_images(folders[1] / "imagenet", split="train", subset=str(folders[1] / "imagenet" / "10percent.txt"))
    assert 0 < len(few) < len(train) and {few.name(i).split("/")[1][5] for i in range(len(few))} == {"0"}


def test_what_is_there_is_left_alone_and_other_files_are_refused(folders, tmp_path):
    assert not make_eval_data(*folders)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        make_eval_data(folders[0], tmp_path)
    with pytest.raises(DataError, match="no demo data there; make it with"):
        make_eval_data(tmp_path, tmp_path / "new")
