"""The main job of DetCon on a small folder of pictures and masks: launched, resumed, on two processes, fed rubbish."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import detconb_main
from data.label_maps import label_map_path, write_label_map
from data.listing import find_images
from detconb_config import DetConBConfig
from models.backbone import make_trunk
from tests.mains.runs import (
    TINY_MODEL,
    assert_a_killed_run_goes_on,
    assert_same,
    assert_two_processes_equal_one,
    make_pictures,
    metrics,
    newest,
    write_own_config,
)
from utils.config import load_config

CONFIG = {
    "model": TINY_MODEL,
    "data": {"resize_size": 32, "mask_type": "own", "data_workers": 0, "train_batch_size": 8},
    "loss": {"pool_size": 4, "mask_rois": 5},
    "optimizer": {"total_epochs": 3, "warmup_epochs": 1},
    "log": {"log_step": 1, "num_pictures": 2},
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """27 pictures below images/train, masks of twelve cells each, and a config beside them."""
    make_pictures(tmp_path)
    make_masks(tmp_path)
    write_own_config(tmp_path, CONFIG)
    return tmp_path


def make_masks(folder: Path) -> None:
    rows, columns = np.indices((48, 60))
    for index in range(27):
        write_label_map(mask_path(folder, index), 4 * (rows // 16) + columns // 15)


def mask_path(folder: Path, index: int) -> Path:
    return label_map_path(folder / "masks", "own", "train", find_images(folder).name(index))


def train(folder: Path, out: str, *arguments: str) -> int:
    return detconb_main.main(["--cfg", str(folder / "own.yaml"), "--out", str(folder / out), *arguments])


def build(folder: Path, **sections: dict) -> detconb_main.DetCon:
    write_own_config(folder, CONFIG, **sections)
    config, _ = load_config(folder / "own.yaml", DetConBConfig)
    return detconb_main.build(config, torch.device("cpu")).method


def test_a_run_leaves_everything_in_its_folder(folder):
    assert train(folder, "run") == 0
    run = folder / "run"
    rows = metrics(run)
    assert [row["step"] for row in rows] == list(range(1, 10))
    for name in ("loss", "learning_rate", "target_momentum", "regions_per_view", "gradient_norm"):
        assert all(np.isfinite(row[name]) for row in rows), name
    assert all(0 < row["matched_regions"] <= 1 and 1 <= row["regions_per_view"] <= 12 for row in rows)
    assert len(list((run / "pictures").glob("masks_*.png"))) == 3
    backbone = torch.load(run / "backbone.pth", weights_only=True)
    trained = newest(run)["method"]
    assert all(torch.equal(value, trained[f"backbone.{key}"]) for key, value in backbone.items())


@pytest.mark.parametrize("variant", ["b", "s"])
def test_a_run_stopped_within_an_epoch_and_resumed_equals_an_uninterrupted_one(folder, variant):
    write_own_config(folder, CONFIG, model={"variant": variant})
    assert train(folder, "whole") == 0
    assert train(folder, "parts", "--max_steps", "5") == 0
    assert train(folder, "parts", "--resume", "auto") == 0
    assert_same(newest(folder / "whole"), newest(folder / "parts"))


def test_two_processes_with_half_the_batch_equal_one(folder):
    """Although each region is told from those of all images; SyncBN on."""
    cases = {
        "b": {},
        "s": {"model": {"variant": "s"}},
        "released": {"loss": {"pool_size": 8, "shared_regions": False}},
    }
    assert_two_processes_equal_one(folder, "detconb", CONFIG, cases)


def test_detcon_s_has_one_network(folder):
    method = build(folder, model={"variant": "s"})
    assert method.target is None and method.predictor is None
    assert not any(name.startswith(("target", "predictor")) for name in method.state_dict())
    assert train(folder, "run", "--max_steps", "1") == 0
    assert "target_momentum" not in metrics(folder / "run")[0]


@pytest.mark.parametrize(("pool_size", "level"), [(4, "c5"), (8, "c4"), (16, "c3"), (32, "c2")])
def test_the_grid_of_masks_chooses_the_level_and_whether_an_fpn_is_needed(folder, pool_size, level):
    method = build(folder, loss={"pool_size": pool_size}, model={"fpn_channels": 6})
    assert method.level == level
    assert isinstance(method.neck, torch.nn.Identity) == (level == "c5")
    assert train(folder, "run", "--max_steps", "2") == 0


def test_the_fpn_has_as_many_channels_as_the_top_level_as_published(folder):
    method = build(folder, loss={"pool_size": 8})
    projection = next(module for module in method.projector.modules() if isinstance(module, torch.nn.Linear))
    assert projection.in_features == method.backbone.levels["c5"].channels
    assert set(dict(method.target.named_parameters())) > {f"1.{name}" for name, _ in method.neck.named_parameters()}


@pytest.mark.parametrize("count", [1, 300, 2000])
def test_masks_with_one_label_and_with_many_are_trained_on(folder, count):
    rows, columns = np.indices((48, 60))
    write_label_map(mask_path(folder, 3), (60 * rows + columns) % count)
    write_label_map(mask_path(folder, 4), (60 * rows + columns) % count)
    assert train(folder, "run", "--max_steps", "3") == 0
    assert np.isfinite(metrics(folder / "run")[-1]["loss"])


def test_a_subset_takes_the_masks_of_its_own_images(folder):
    """The release finds masks by their place in a list, and so takes those of other images."""
    names = [find_images(folder).name(index) for index in range(9, 27)]
    (folder / "subset.txt").write_text("\n".join(names))
    write_own_config(folder, CONFIG, data={"subset": str(folder / "subset.txt")})
    for index in range(9):
        mask_path(folder, index).unlink()
    assert train(folder, "run", "--max_steps", "2") == 0


def test_missing_masks_are_named_at_the_start_with_the_command_that_makes_them(folder, capsys):
    mask_path(folder, 5).unlink()
    assert train(folder, "run") == 3
    message = capsys.readouterr().err
    assert find_images(folder).name(5) in message and "python -m tools.make_masks" in message
    assert not (folder / "run").exists()


@pytest.mark.parametrize("defect", ["damaged", "of another size"])
def test_a_bad_mask_stops_the_run_with_its_name(folder, capsys, defect):
    path = mask_path(folder, 5)
    if defect == "damaged":
        path.write_bytes(path.read_bytes()[:-30])
    else:
        write_label_map(path, np.zeros((60, 48), np.uint8))
    assert train(folder, "run", "--set", "data.data_workers=1") == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert str(path) in last and "make" in last


def test_an_unreadable_image_needs_no_mask(folder, capsys):
    """make_masks skips it, and training takes another image in its place."""
    (folder / "images/train" / find_images(folder).name(5)).write_text("no picture")
    mask_path(folder, 5).unlink()
    assert train(folder, "run", "--max_steps", "3", "--set", "data.max_bad_fraction=0.1") == 0


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (
            ["loss.pool_size=7"],
            "loss.pool_size: 7, but views of data.resize_size = 32 px have grids of 32 (c2), 16 (c3)",
        ),
        (["model.variant=s", "loss.shared_regions=false"], "loss.shared_regions"),
        (["loss.pool_szie=7"], "did you mean loss.pool_size?"),
        (["data.mask_type=fh"], "fh"),
    ],
)
def test_what_cannot_be_built_is_refused_with_a_remedy(folder, capsys, overrides, part):
    assert train(folder, "run", "--set", *overrides) in (2, 3)
    assert part in capsys.readouterr().err


def test_the_published_yaml_loads_under_its_own_key_names(tmp_path):
    published = {
        "model": {
            "base_momentum": 0.99,
            "backbone": {"type": "resnet50", "pretrained": False},
            "projection": {"type": "MLP", "input_dim": 2048, "hidden_dim": 4096, "output_dim": 256},
            "predictor": {"type": "MLP", "input_dim": 256, "hidden_dim": 4096, "output_dim": 256},
        },
        "amp": {"sync_bn": True, "opt_level": "O0"},
        "data": {
            "image_dir": "/imagenet",
            "mask_type": "fh",
            "resize_size": 224,
            "data_workers": 16,
            "train_batch_size": 32,
            "val_batch_size": 32,
            "dual_views": True,
            "num_examples": 1281167,
        },
        "optimizer": {
            "type": "lars",
            "base_lr": 0.3,
            "lr_type": "cosine",
            "momentum": 0.9,
            "weight_decay": 1e-6,
            "total_epochs": 300,
            "warmup_epochs": 3,
            "exclude_bias_and_bn": True,
        },
        "loss": {"temperature": 0.1, "mask_rois": 16, "pool_size": 7},
        "checkpoint": {
            "time_stamp": None,
            "resume_path": None,
            "save_epoch": 100,
            "ckpt_path": "ckpt/detconb_imagenet/{}/{}_{}_{}.pth.tar",
        },
        "log": {"log_step": 10, "log_dir": None, "log_all": False, "wandb_id": "None"},
        "stage": "train",
        "distributed": True,
        "seed": 0,
    }
    (tmp_path / "train_imagenet_300.yaml").write_text(yaml.safe_dump(published))
    config, warnings = load_config(tmp_path / "train_imagenet_300.yaml", DetConBConfig)
    ours, _ = load_config(Path("configs/detconb/imagenet_300ep.yaml"), DetConBConfig)
    for section in ("model", "amp", "optimizer", "loss"):
        assert getattr(config, section) == getattr(ours, section)
    assert all("no longer used" in warning for warning in warnings)


def test_the_published_pool_sizes_are_the_grids_of_a_resnet():
    trunk = make_trunk("resnet18")
    levels = [detconb_main.level_of_grid(trunk, size, size=224) for size in (7, 14, 28, 56)]
    assert levels == ["c5", "c4", "c3", "c2"]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_parameters(folder):
    changes = {"optimizer": {"total_epochs": 12}, "checkpoint": {"save_minutes": 0.002}, "data": {"data_workers": 1}}
    write_own_config(folder, CONFIG, **changes)
    assert_a_killed_run_goes_on("detconb", folder)
