import json

import numpy as np
import pytest
import torch
import yaml

from data.coco_objects import coco_path
from data.demo_shapes import CATEGORY_NAMES
from evaluation import detection
from evaluation.results import read_results
from evaluation.truths import open_coco
from models.region_heads import Detections
from tests.evaluation.small_detection import C4, TRAINED, config, merged


@pytest.fixture
def arguments(tmp_path):
    """A command line for the small config, with changes of keys."""

    def make(folder, name="run", **changes):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(merged({"data.dir": str(folder), "data.val_batch_size": 4, **changes})))
        return ["--cfg", str(path), "--out", str(tmp_path / name)]

    return make


def test_coco_gives_ap_of_boxes_and_masks(arguments, scenes, tmp_path, capsys):
    assert detection.main(arguments(scenes, **{"model.box_head": "4conv1fc", "model.norm_steps": 2})) == 0
    results = read_results(tmp_path / "run")
    assert {"APbb", "AP50bb", "AP75bb", "APmk", "AP50mk", "AP75mk"} <= results["metrics"].keys()
    assert all(0 <= value <= 1 for value in results["metrics"].values())
    assert results["details"]["images"] == 12 and 0 < results["details"]["detections"] <= 60
    assert "APmk" in capsys.readouterr().out


def test_voc_gives_ap_ap50_and_ap75_on_c4(arguments, layouts, tmp_path):
    voc = C4 | {"data.layout": "voc", "data.classes": list(CATEGORY_NAMES)}
    assert detection.main(arguments(layouts / "voc", **voc)) == 0
    results = read_results(tmp_path / "run")
    assert results["metrics"].keys() == {"AP", "AP50", "AP75"} and results["details"]["images"] == 12


def test_large_scale_jitter_trains_too(arguments, scenes, tmp_path):
    assert detection.main(arguments(scenes, **{"data.sizing": "long", "data.square": 48})) == 0
    assert "APmk" in read_results(tmp_path / "run")["metrics"]


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    """A config's path and the folder of its finished run."""
    folder = tmp_path_factory.mktemp("trained")
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(merged({"data.dir": str(scenes), "data.val_batch_size": 4, **TRAINED})))
    assert detection.main(["--cfg", str(path), "--out", str(folder / "run")]) == 0
    assert read_results(folder / "run")["metrics"]["APbb"] > 0
    return path, folder / "run"


def test_a_run_that_was_stopped_ends_as_one_that_was_not(trained, tmp_path):
    path, whole = trained
    command = ["--cfg", str(path), "--out", str(tmp_path / "run")]
    assert detection.main([*command, "--max_steps", "10"]) == 0
    assert detection.main([*command, "--resume", "auto"]) == 0
    assert read_results(tmp_path / "run")["metrics"] == read_results(whole)["metrics"]


def test_perfect_detections_of_the_networks_image_score_1(scenes):
    settings = config(scenes)
    sets = detection.read_sets(settings)
    coco, found = open_coco(coco_path(scenes, "val")), {}
    for index, number in enumerate(sets.test.ids.tolist()):
        objects = sets.test.objects(index)
        masks = [coco.annToMask(one) for one in coco.imgToAnns[number]]
        small = Detections(
            torch.from_numpy(objects.boxes * 2).float(),
            torch.ones(len(masks)),
            torch.from_numpy(objects.labels),
            torch.stack([_over_box(mask, box) for mask, box in zip(masks, objects.boxes)]),
        )
        found[number] = detection.in_image(small, (96, 96), objects.size)
    metrics = detection.score(settings, sets.test, found).metrics
    assert metrics["APbb"] == pytest.approx(1) and metrics["AP50mk"] == pytest.approx(1)


def _over_box(mask, box):
    """(28, 28): what each cell's centre shows of an image's mask."""
    x0, y0, x1, y1 = box
    steps = (np.arange(28) + 0.5) / 28
    rows, columns = (y0 + steps * (y1 - y0)).astype(int), (x0 + steps * (x1 - x0)).astype(int)
    return torch.from_numpy(mask[rows[:, None], columns]).float()


def test_another_number_of_classes_in_the_test_set_is_refused(arguments, scenes, tmp_path, caplog):
    copied = tmp_path / "scenes"
    (copied / "annotations").mkdir(parents=True)
    (copied / "images").symlink_to(scenes / "images")
    for split in ("train", "val"):
        content = json.loads(coco_path(scenes, split).read_text())
        if split == "val":
            content["categories"] += [{"id": 99, "name": "unicorn"}]
        coco_path(copied, split).write_text(json.dumps(content))
    assert detection.main(arguments(copied)) == 3
    assert "10 classes to train on and 11 to be tested on" in caplog.text
