import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from evaluation.probe_data import read_probe_data
from tools.make_demo_data import DemoData, main, make_demo_data, voc_palette
from utils.errors import DataError, UserError

DEMO = DemoData(num_train=5, num_val=2, size=48, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("demo") / "data"
    assert make_demo_data(made, DEMO, workers=1)
    return made


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_are_the_same_whatever_the_number_of_workers(folder, tmp_path):
    make_demo_data(tmp_path / "two", DEMO, workers=2)
    assert contents(tmp_path / "two") == contents(folder)


def test_another_seed_gives_other_scenes(folder, tmp_path):
    make_demo_data(tmp_path / "other", DemoData(num_train=1, num_val=1, size=48, seed=4), workers=1)
    name = "images/train/000000.jpg"
    assert (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()


def test_train_and_val_hold_different_scenes():
    assert not np.array_equal(DEMO.scene("train", 0).image, DEMO.scene("val", 0).image)


def test_what_is_there_is_not_made_again(folder):
    path = folder / "images/train/000000.jpg"
    before = path.stat().st_mtime_ns
    assert not make_demo_data(folder, DEMO, workers=1)
    assert path.stat().st_mtime_ns == before


def test_a_job_that_was_stopped_is_made_whole(folder, tmp_path):
    make_demo_data(tmp_path / "cut", DEMO, workers=1)
    (tmp_path / "cut/images/train/000003.jpg").unlink()
    (tmp_path / "cut/annotations/instances_val.json").write_text("{")
    meta = json.loads((tmp_path / "cut/meta.json").read_text())
    (tmp_path / "cut/meta.json").write_text(json.dumps({**meta, "complete": False}))
    assert make_demo_data(tmp_path / "cut", DEMO, workers=1)
    assert contents(tmp_path / "cut") == contents(folder)


def test_a_folder_of_other_demo_data_or_of_other_files_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="holds demo data of .*'seed': 3.*choose another --output_dir"):
        make_demo_data(folder, DemoData(num_train=5, num_val=2, size=48, seed=9), workers=1)
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="holds other files"):
        make_demo_data(tmp_path, DEMO, workers=1)


def test_coco_file_holds_each_object_as_it_is_seen(folder):
    coco = COCO(folder / "annotations/instances_train.json")
    assert len(coco.imgs) == 5 and len(coco.cats) == 10
    for index, image in enumerate(coco.loadImgs(sorted(coco.getImgIds()))):
        scene = DEMO.scene("train", index)
        things = coco.imgToAnns[image["id"]]
        assert image["file_name"] == f"{index:06d}.jpg"
        assert [thing["category_id"] for thing in things] == scene.categories.tolist()
        for place, thing in enumerate(things, start=1):
            mask = scene.instances == place
            np.testing.assert_array_equal(coco.annToMask(thing), mask)
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert thing["bbox"] == box and thing["area"] == mask.sum()
        assert 0 not in coco.anns


def test_images_are_the_scenes_up_to_jpeg(folder):
    stored = np.asarray(Image.open(folder / "images/val/000001.jpg"), np.float32)
    assert np.abs(stored - DEMO.scene("val", 1).image).mean() < 6


def test_segmentation_is_a_palette_png_of_category_ids(folder):
    with Image.open(folder / "segmentations/val/000000.png") as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), DEMO.scene("val", 0).segmentation)
        assert picture.getpalette()[:12] == voc_palette()[:12]


def test_palette_is_that_of_pascal_voc():
    palette = voc_palette()
    assert palette[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
    assert palette[3 * 20 : 3 * 21] == [0, 64, 128] and palette[-3:] == [224, 224, 192]


def test_probes_read_what_was_made(folder):
    data = read_probe_data(folder, "train", size=32, limit=4)
    assert data.images.shape == (4, 3, 32, 32) and data.num_classes == 10
    for index in range(4):
        np.testing.assert_array_equal(data.segmentation[index], DEMO.scene("train", index).segmentation)


def test_probes_say_how_to_make_the_data_where_there_is_none(tmp_path):
    with pytest.raises(DataError, match="tools.make_demo_data --output_dir"):
        read_probe_data(tmp_path, "val", size=32)


@pytest.mark.parametrize("wrong", [["--num_val", "0"], ["--size", "16"]])
def test_numbers_out_of_range_end_the_command_with_code_2(wrong, tmp_path):
    assert main(["--output_dir", str(tmp_path / "none"), *wrong]) == 2
    assert not (tmp_path / "none").exists()


def test_command_line_makes_the_data_and_then_says_that_it_is_there(tmp_path, capsys):
    numbers = ["--num_train", "1", "--num_val", "1", "--size", "32", "--workers", "1"]
    command = ["--output_dir", str(tmp_path / "data"), *numbers]
    assert main(command) == 0
    assert "1 + 1 scenes made" in capsys.readouterr().out
    assert main(command) == 0
    assert "were there already" in capsys.readouterr().out
