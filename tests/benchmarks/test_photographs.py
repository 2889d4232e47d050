"""Regions of photographs beside people's: what is compared with what. Both methods are trained by small settings."""

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks import photographs
from benchmarks.photographs import CONFIGS, FIXED, entry_of, main, make_untrained_run
from engine.schedules import num_clusters
from evaluation.map_scores import MaskQuality
from tests.paths import ROOT
from utils.files import read_json, write_json

QUALITY = MaskQuality(best_iou=0.1, boundary_f=0.2, ari=0.3, labels_per_image=4.0, images=5)


def test_a_row_says_which_masks_of_which_epoch_they_are():
    row = entry_of("R2O", "r2o", 12, QUALITY, 99)
    assert row == {"masks": "R2O, epoch 12", "method": "r2o", "epoch": 12, "clusters": 99, **QUALITY._asdict()}
    assert entry_of("FH", "fh", None, QUALITY)["masks"] == "FH"


def test_the_untrained_rival_has_the_same_settings_but_a_k_that_stays(tmp_path):
    config = {"clustering": {"scheduler": {}, "max_iter": 3}, "checkpoint": {"ckpt_path": "{}/{}/{}/{}"}, "seed": 7}
    (tmp_path / "r2o").mkdir()
    (tmp_path / "r2o/config.yaml").write_text(yaml.safe_dump(config))
    write_json(tmp_path / "r2o/run.json", {"stamp": "now"})
    for asked, found in ((17, 17), (None, 9999)):
        rival = make_untrained_run(tmp_path / "r2o", tmp_path / "untrained", clusters=asked)
        own = yaml.safe_load((rival / "config.yaml").read_text())
        assert num_clusters(1, **own["clustering"].pop("scheduler"))[1] == found
        assert own == {"clustering": {"max_iter": 3}, "checkpoint": {"ckpt_path": None}, "seed": 7}
        assert read_json(rival / "run.json") == {"stamp": "now"}


def test_both_train_the_same_network_alike_and_the_curriculum_ends_with_its_run():
    ours, theirs = (
        yaml.safe_load((ROOT / f"configs/{method}/{CONFIGS[method]}.yaml").read_text()) for method in ("r2o", "cyborgs")
    )
    epochs = ours["optimizer"].pop("total_epochs")
    assert (
        ours["optimizer"] == {key: theirs["optimizer"][key] for key in ours["optimizer"]}
        and ours["seed"] == theirs["seed"]
    )
    assert ours["model"].items() >= theirs["model"].items()
    shared = ("image_dir", "resize_size", "train_batch_size", "min_crop")
    assert {key: ours["data"][key] for key in shared} == {key: theirs["data"][key] for key in shared}
    assert ours["clustering"]["scheduler"]["epochs"] == [0, epochs]
    assert epochs % ours["checkpoint"]["save_epoch"] == 0


@pytest.mark.slow
def test_the_command_compares_both_methods_with_untrained_networks_and_with_fixed_masks(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for number in range(8):
        photo, segments = tmp_path / f"images/train/{number}.png", tmp_path / f"segments/train/{number}_0.png"
        halves = np.repeat([[0, 1]], 40, axis=0).repeat(30, axis=1).astype(np.uint8)
        noise = np.kron(rng.integers(0, 100, (8, 12, 3)), np.ones((5, 5, 1))) + 120 * halves[..., None]
        for path, picture in ((photo, noise.astype(np.uint8)), (segments, halves)):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    monkeypatch.chdir(ROOT)
    small = ["model.backbone.width=4", "data.resize_size=32", "data.train_batch_size=4", "data.data_workers=0"]
    small += [
        "optimizer.total_epochs=13",
        "optimizer.warmup_epochs=0",
        "checkpoint.save_epoch=12",
        "checkpoint.keep_last=1",
    ]
    command = ["--bsds", str(tmp_path), "--folder", str(tmp_path / "runs"), "--docs", str(tmp_path / "docs"), "--set"]
    assert main([*command, *small]) == 0
    rows = read_json(tmp_path / "docs/bsds500.json")
    assert [(row["method"], row["epoch"]) for row in rows] == [
        *(("r2o", 0), ("r2o", 12), ("r2o_untrained", 12)),
        *(("cyborgs", 0), ("cyborgs", 12), ("cyborgs_untrained", None)),
        *(("slic", None),) * 3,
        *(("fh", None),) * 2,
    ]
    assert [row["masks"] for row in rows[-5:]] == list(FIXED.values())
    by_name = {row["masks"]: row for row in rows}
    # With as many clusters, but of other features.
    assert by_name["R2O, epoch 12"]["clusters"] == by_name["untrained network, R2O's K, epoch 12"]["clusters"]
    assert all(row["images"] == 8 and 0 < row["best_iou"] <= 1 for row in rows)
    for method in ("r2o", "cyborgs"):
        sheet = Image.open(tmp_path / f"docs/bsds500_{method}.png")
        assert sheet.height == Image.open(tmp_path / "docs/bsds500_r2o.png").height
        assert sheet.width > 3 * photographs._ROWS
