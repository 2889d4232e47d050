"""The main job of CYBORGS on a small folder of pictures: masks made between epochs, resumed, on two processes, fed rubbish."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import cyborgs_main
import tools.group_maps
from cyborgs_config import CyborgsConfig
from data.label_maps import read_label_map
from tests.mains.runs import (
    TINY_MODEL,
    assert_a_killed_run_goes_on,
    assert_same,
    assert_two_processes_equal_one,
    launched,
    make_pictures,
    metrics,
    newest,
    write_own_config,
)
from utils.config import load_config

CONFIG = {
    "model": TINY_MODEL,
    "data": {"resize_size": 32, "mask_type": "grid3x4", "data_workers": 0, "train_batch_size": 8},
    "bootstrap": {"boot_freq": 1, "layer_name": "layer2.0", "imgs_per_batch": 4, "min_clusters": 3, "max_clusters": 6},
    "loss": {"mask_rois": 5},
    "optimizer": {"total_epochs": 3, "warmup_epochs": 1},
    "log": {"log_step": 1, "num_pictures": 2},
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """27 pictures below images/train and a config beside them."""
    make_pictures(tmp_path)
    write_own_config(tmp_path, CONFIG)
    return tmp_path


def train(folder: Path, out: str, *arguments: str) -> int:
    return cyborgs_main.main(["--cfg", str(folder / "own.yaml"), "--out", str(folder / out), *arguments])


def masks(run: Path) -> dict[str, bytes]:
    """All files of all generations."""
    return {str(path.relative_to(run)): path.read_bytes() for path in (run / "masks").rglob("*.png")}


def weights_of(run: Path, number: int) -> str:
    """Which network a generation was made with."""
    return json.loads((run / f"masks/gen_{number:04d}/train/meta.json").read_text())["parameters"]["weights"]


def test_a_run_leaves_everything_in_its_folder(folder):
    assert train(folder, "run") == 0
    run = folder / "run"
    rows = metrics(run)
    assert [row["step"] for row in rows] == list(range(1, 10))
    for name in ("loss", "learning_rate", "target_momentum", "regions_per_view", "replaced_images", "gradient_norm"):
        assert all(np.isfinite(row[name]) for row in rows), name
    assert {row["target_momentum"] for row in rows} == {0.996}
    made = masks(run)
    assert sorted({name.split("/")[1] for name in made}) == ["gen_0001", "gen_0002"] and len(made) == 2 * 27
    for name in made:
        labels = read_label_map(run / name)
        assert labels.shape == (48, 60) and labels.max() < 6
    assert weights_of(run, 1) != weights_of(run, 2)
    assert len(list((run / "pictures").glob("generations_*.png"))) == 3
    assert len(list((run / "pictures").glob("masks_*.png"))) == 3
    backbone = torch.load(run / "backbone.pth", weights_only=True)
    trained = newest(run)["method"]
    assert all(torch.equal(value, trained[f"backbone.{key}"]) for key, value in backbone.items())


def test_a_generation_is_trained_on_from_its_epoch_on(folder):
    """Grids of twelve cells first, then generations of three clusters at most."""
    write_own_config(folder, CONFIG, bootstrap={"boot_freq": 2, "max_clusters": 3})
    assert train(folder, "run") == 0
    regions = [row["regions_per_view"] for row in metrics(folder / "run")]
    assert min(regions[:6]) > 3.5 and max(regions[6:]) <= 3


def test_a_generation_is_made_once_and_its_checkpoint_kept(folder):
    """In four epochs of two generations, stopped in the last, whose beginning was not the generation's."""
    write_own_config(folder, CONFIG, bootstrap={"boot_freq": 2}, optimizer={"total_epochs": 4, "warmup_epochs": 1})
    assert train(folder, "whole") == 0
    assert train(folder, "parts", "--max_steps", "10") == 0
    parts = folder / "parts"
    made, weights = masks(parts), weights_of(parts, 1)
    times = {path: path.stat().st_mtime_ns for path in parts.rglob("gen_0001/**/*.png")}
    assert train(folder, "parts", "--resume", "auto") == 0
    assert masks(parts) == made == masks(folder / "whole") and weights_of(parts, 1) == weights
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())
    assert_same(newest(folder / "whole"), newest(parts))
    for run in (folder / "whole", parts):
        assert sorted(path.name for path in (run / "pictures").glob("generations_*")) == [
            "generations_00000000.png",
            "generations_00000006.png",
        ]
        assert {path.name for path in (run / "checkpoints").glob("*.pth")} >= {"checkpoint_2.pth", "checkpoint_4.pth"}


def test_another_length_of_generations_in_the_middle_of_one_is_refused(folder, capsys):
    assert train(folder, "run", "--max_steps", "7") == 0
    assert train(folder, "run", "--resume", "auto", "--set", "bootstrap.boot_freq=2") == 2
    message = capsys.readouterr().err
    assert "gen_0001" in message and "epoch 2" in message


def test_a_run_stopped_within_epochs_and_resumed_equals_an_uninterrupted_one(folder):
    assert train(folder, "whole") == 0
    assert train(folder, "parts", "--max_steps", "4") == 0
    assert train(folder, "parts", "--max_steps", "8", "--resume", "auto") == 0
    assert train(folder, "parts", "--resume", "auto") == 0
    assert_same(newest(folder / "whole"), newest(folder / "parts"))
    assert masks(folder / "whole") == masks(folder / "parts")


def test_a_run_stopped_while_it_makes_masks_ends_in_the_same_ones(folder, monkeypatch):
    assert train(folder, "whole") == 0
    write, written = tools.group_maps.write_label_map, []

    def fail_late(path, labels):
        written.append(path)
        if len(written) == 27 + 10:
            raise RuntimeError("stopped")
        write(path, labels)

    monkeypatch.setattr(tools.group_maps, "write_label_map", fail_late)
    with pytest.raises(RuntimeError, match="stopped"):
        train(folder, "parts")
    monkeypatch.undo()
    assert 27 < len(masks(folder / "parts")) < 2 * 27
    assert train(folder, "parts", "--resume", "auto") == 0
    assert_same(newest(folder / "whole"), newest(folder / "parts"))
    assert masks(folder / "whole") == masks(folder / "parts")


def test_two_processes_with_half_the_batch_equal_one(folder):
    """Masks made in between too; the float32 copy that makes them hides differences of rounding."""
    cases = {
        "plain": {},
        "released": {"model": TINY_MODEL | {"norm_per_slot": True}, "loss": {"mask_rois": 5, "shared_regions": False}},
    }
    assert_two_processes_equal_one(folder, "cyborgs", CONFIG, cases)
    for case in cases:
        made = masks(folder / f"one_{case}")
        assert len(made) == 27 and made == masks(folder / f"two_{case}")


def test_the_baseline_keeps_its_first_masks(folder):
    write_own_config(folder, CONFIG, baseline=True)
    assert train(folder, "run") == 0
    assert masks(folder / "run") == {}
    assert min(row["regions_per_view"] for row in metrics(folder / "run")) > 3.5


def test_scrambled_masks_are_trained_on(folder):
    losses = []
    for scrambled in ("false", "true"):
        assert train(folder, scrambled, "--max_steps", "1", "--set", f"data.scramble_masks={scrambled}") == 0
        losses.append(metrics(folder / scrambled)[0]["loss"])
    assert losses[0] != losses[1]


@pytest.mark.parametrize("file", ["backbone.pth", "checkpoint"])
def test_a_checkpoint_makes_the_first_generation(folder, file):
    assert train(folder, "other", "--set", "seed=5", "baseline=true") == 0
    path = (
        folder / "other/backbone.pth" if file == "backbone.pth" else next((folder / "other/checkpoints").glob("*.pth"))
    )
    assert train(folder, "run", "--set", f"bootstrap.first_weights={path}") == 0
    assert len(masks(folder / "run")) == 3 * 27
    assert train(folder, "again", "--max_steps", "2", "--set", f"bootstrap.first_weights={path}") == 0
    path.unlink()
    assert train(folder, "again", "--resume", "auto", "--set", f"bootstrap.first_weights={path}") == 0
    assert masks(folder / "run") == masks(folder / "again")
    assert_same(newest(folder / "run"), newest(folder / "again"))


def test_the_vmf_loss_is_logged_where_it_has_a_weight(folder):
    write_own_config(folder, CONFIG, loss={"vmf_weight": 0.5, "vmf_epochs": 2})
    assert train(folder, "run") == 0
    terms = [row["vmf"] for row in metrics(folder / "run")]
    assert terms[:3] == [0, 0, 0] and min(terms[3:6]) > 0 and terms[6:] == [0, 0, 0]


def test_a_run_that_goes_back_makes_its_later_masks_anew(folder):
    write_own_config(folder, CONFIG, checkpoint={"save_epoch": 1})
    assert train(folder, "run") == 0
    run, before = folder / "run", masks(folder / "run")
    second = weights_of(run, 2)
    checkpoint = str(run / "checkpoints/checkpoint_1.pth")
    assert train(folder, "run", "--resume", checkpoint, "--set", "optimizer.base_lr=0.5") == 0
    after = masks(run)
    assert weights_of(run, 2) != second and before.keys() == after.keys()
    first = [name for name in before if "gen_0001" in name]
    assert all(before[name] == after[name] for name in first)


def test_masks_that_are_lost_within_an_epoch_are_named_with_the_way_back(folder, capsys):
    assert train(folder, "run", "--max_steps", "4") == 0
    lost = folder / "run/masks/gen_0001/train"
    for path in [*lost.rglob("*.png"), lost / "meta.json"]:
        path.unlink()
    assert train(folder, "run", "--resume", "auto") in (2, 3)
    message = capsys.readouterr().err
    assert "gen_0001" in message and "resume" in message


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["bootstrap.layer_name=layer2.7"], "layer2.7"),
        (["bootstrap.min_clusters=9"], "bootstrap.max_clusters: 6"),
        (["bootstrap.max_clusters=100000"], "max_clusters 100000"),
        (["optimizer.final_lr=0.1", "optimizer.lr_type=steps"], "optimizer.final_lr: 0.1"),
        (["model.levels=[c5,c3]"], "model.levels"),
        (["bootstrap.boot_frequ=7"], "did you mean bootstrap.boot_freq?"),
        (["data.mask_type=fh"], "python -m tools.make_masks"),
        (["bootstrap.first_weights=nothing.pth"], "bootstrap.first_weights: no file nothing.pth"),
        (["bootstrap.first_weights=own.yaml"], "own.yaml"),
        (["model.projection.input_dim=3"], "model.projection.input_dim: 3"),
    ],
)
def test_what_cannot_be_built_is_refused_with_a_remedy(folder, capsys, overrides, part, monkeypatch):
    monkeypatch.chdir(folder)
    assert train(folder, "run", "--set", *overrides) in (2, 3)
    assert part in capsys.readouterr().err
    assert not (folder / "run").exists()


def test_levels_are_joined_on_the_grid_of_the_last(folder):
    write_own_config(folder, CONFIG, model=TINY_MODEL | {"levels": ["c2", "c4"]})
    config, _ = load_config(folder / "own.yaml", CyborgsConfig)
    method = cyborgs_main.make_method(config, momentum=lambda progress: 0.9)
    levels = method.backbone.levels
    assert method.pool_size == 32 // levels["c4"].stride
    assert method.projector[0].in_features == levels["c2"].channels + levels["c4"].channels


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_parameters(folder):
    changes = {"optimizer": {"total_epochs": 12}, "checkpoint": {"save_minutes": 0.002}, "data": {"data_workers": 1}}
    write_own_config(folder, CONFIG, **changes)
    assert_a_killed_run_goes_on("cyborgs", folder)
    assert masks(folder / "whole") == masks(folder / "killed")


@pytest.mark.slow
def test_a_run_killed_while_it_makes_masks_goes_on_to_the_same_ones(tmp_path):
    make_pictures(tmp_path, 240)
    write_own_config(
        tmp_path, CONFIG, data={"train_batch_size": 80, "data_workers": 1}, bootstrap={"imgs_per_batch": 1}
    )
    assert launched("cyborgs", tmp_path, "whole").wait(timeout=200) == 0
    process = launched("cyborgs", tmp_path, "killed")
    run = tmp_path / "killed"
    # In the second generation that it makes, past the first maps and well before the last.
    while len(list(run.glob("masks/gen_0002/**/*.png"))) < 40:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    assert 40 <= len(list(run.glob("masks/gen_0002/**/*.png"))) < 240
    assert launched("cyborgs", tmp_path, "killed", "--resume", "auto").wait(timeout=200) == 0
    assert_same(newest(tmp_path / "whole"), newest(run))
    assert masks(tmp_path / "whole") == masks(run)
