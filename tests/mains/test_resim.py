"""The main job of ReSim and MoCo v2 on a small folder of pictures: launched, resumed, on two processes, fed rubbish."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import resim_main
from data.photometric import BYOL_VIEW_1, BYOL_VIEW_2, MOCO_V2_VIEW
from models.fpn import FPN
from resim_config import ReSimConfig
from tests.mains import train_in_float64
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
from tests.utils.two_ranks import run_two_ranks
from utils.config import load_config

CONFIG = {
    "model": {"queue_size": 64, "fpn_channels": 6, **{key: TINY_MODEL[key] for key in ("backbone", "projection")}},
    "data": {"resize_size": 32, "data_workers": 0, "train_batch_size": 8},
    "loss": {"c4": {"size": 12, "stride": 8, "gather": True}, "c3": {"size": 8, "stride": 6, "gather": False}},
    "optimizer": {"type": "sgd", "base_lr": 1.0, "total_epochs": 3, "warmup_epochs": 1, "exclude_bias_and_bn": False},
    "log": {"log_step": 1, "num_pictures": 2},
}
TASKS = {"fpn": ["moco", "c4", "c3"], "c4": ["moco", "c4"], "mocov2": ["moco"]}


@pytest.fixture
def folder(tmp_path) -> Path:
    """27 pictures below images/train, and a config beside them."""
    make_pictures(tmp_path)
    write_own_config(tmp_path, CONFIG)
    return tmp_path


def train(folder: Path, out: str, *arguments: str) -> int:
    return resim_main.main(["--cfg", str(folder / "own.yaml"), "--out", str(folder / out), *arguments])


def build(folder: Path, **sections: dict) -> resim_main.Parts:
    write_own_config(folder, CONFIG, **sections)
    config, _ = load_config(folder / "own.yaml", ReSimConfig)
    return resim_main.build(config, torch.device("cpu"))


@pytest.mark.parametrize("variant", TASKS)
def test_a_run_logs_every_task_and_leaves_everything_in_its_folder(folder, variant):
    assert train(folder, "run", "--set", f"model.variant={variant}") == 0
    run, tasks = folder / "run", TASKS[variant]
    rows = metrics(run)
    assert [row["step"] for row in rows] == list(range(1, 10))
    for row in rows:
        assert {name for name in row if name.startswith("loss")} == {f"loss_{task}" for task in tasks}
        assert np.isclose(row["total_loss"], sum(row[f"loss_{task}"] for task in tasks))
        assert all(0 <= row[f"top1_{task}"] <= 1 for task in tasks)
        assert all(0 <= row[f"matched_{task}"] <= 1 for task in tasks[1:])
        assert row["target_momentum"] == 0.999
    assert len(list((run / "pictures").glob("windows_*.png"))) == (0 if variant == "mocov2" else 3)
    backbone = torch.load(run / "backbone.pth", weights_only=True)
    trained = newest(run)["method"]
    assert all(torch.equal(value, trained[f"backbone.{key}"]) for key, value in backbone.items())


@pytest.mark.parametrize("variant", ["fpn", "mocov2"])
def test_a_run_stopped_within_an_epoch_and_resumed_equals_an_uninterrupted_one(folder, variant):
    write_own_config(folder, CONFIG, model={"variant": variant})
    assert train(folder, "whole") == 0
    assert train(folder, "parts", "--max_steps", "5") == 0
    stopped = newest(folder / "parts")["method"]
    assert stopped["queue.keys"].shape == (64, 8) and stopped["queue.next"] == 5 * 8
    assert train(folder, "parts", "--resume", "auto") == 0
    assert_same(newest(folder / "whole"), newest(folder / "parts"))


def test_two_processes_with_half_the_batch_equal_one(folder):
    """With BatchNorm off and keys shuffled between the processes, and with BatchNorm synchronised."""
    gathered = {"c3": {"size": 8, "stride": 6, "gather": True}}
    cases = {
        "frozen_norm": {"loss": gathered},
        "frozen_norm_c4": {"model": {"variant": "c4"}},
        "synchronised": {"loss": gathered, "amp": {"sync_bn": True}, "model": {"fpn_norm": True}},
        "frozen_norm_mocov2": {"model": {"variant": "mocov2"}},
    }
    assert_two_processes_equal_one(folder, "resim", CONFIG, cases)


def test_two_processes_as_published_stay_together(folder):
    """Local BatchNorm, shuffled keys, C3's negatives of each process alone."""
    write_own_config(folder, CONFIG, name="published", data={"train_batch_size": 4})
    first, second = (
        states["published"] for states in run_two_ranks(train_in_float64.__file__, folder, "resim", "published")
    )
    trained = [name for name in first if "running" not in name]
    assert all(torch.equal(first[name], second[name]) and first[name].isfinite().all() for name in trained)
    assert any(not torch.equal(first[name], second[name]) for name in first if "running" in name)


def test_both_views_are_mirrored_alike_but_for_moco(folder):
    def differ(variant: str) -> bool:
        dataset = build(folder, model={"variant": variant}).loader.dataset
        flips = [tuple(dataset[epoch, 0]["flips"].tolist()) for epoch in range(20)]
        assert len({flip for flip, _ in flips}) == 2
        return any(first != second for first, second in flips)

    assert [differ(variant) for variant in TASKS] == [False, False, True]


def test_keys_change_places_unless_statistics_are_synchronised(folder):
    assert build(folder, seed=5).method.shuffle_seed == 5
    assert build(folder, seed=5, amp={"sync_bn": True}).method.shuffle_seed is None


def test_views_are_moco_v2s(folder):
    spec = build(folder, data={"resize_size": 224}).loader.dataset.spec
    assert spec.photometric == (MOCO_V2_VIEW, MOCO_V2_VIEW) and spec.scale == (0.2, 1.0)
    others = build(folder, data={"resize_size": 224, "photometric": "byol"}).loader.dataset.spec
    assert others.photometric == (BYOL_VIEW_1, BYOL_VIEW_2)


def test_every_micro_batch_fills_the_queue(folder):
    write_own_config(folder, CONFIG, optimizer={"accumulate_steps": 2}, amp={"opt_level": "O1"})
    assert train(folder, "run", "--max_steps", "2") == 0
    queue = newest(folder / "run")["method"]
    assert queue["queue.next"] == 2 * 2 * 8 and queue["queue.keys"].dtype == torch.float32


def test_one_process_and_a_queue_of_more_keys_than_images_are_warned_of(folder, capsys):
    assert train(folder, "run", "--max_steps", "1") == 0
    warnings = capsys.readouterr().err
    assert "one process: BatchNorm" in warnings and "64 keys of 27 images" in warnings
    assert train(folder, "small", "--max_steps", "1", "--set", "model.queue_size=24") == 0
    assert "keys of" not in capsys.readouterr().err


def test_keys_of_a_network_that_moves_too_fast_for_its_queue_are_warned_of(folder, capsys):
    assert train(folder, "fast", "--max_steps", "1", "--set", "model.base_momentum=0.9") == 0
    assert "8 steps, the key network forgets 57 %" in capsys.readouterr().err
    assert train(folder, "slow", "--max_steps", "1", "--set", "model.base_momentum=0.99") == 0
    assert "forgets" not in capsys.readouterr().err


def test_windows_of_c4_alone_see_no_other_level(folder):
    neck = build(folder, model={"variant": "c4"}).method.neck
    assert isinstance(neck, FPN) and list(neck.lateral) == ["c4"]
    assert list(build(folder, model={"variant": "fpn"}).method.neck.lateral) == ["c3", "c4", "c5"]


def test_the_rate_falls_to_a_tenth_at_each_milestone(folder):
    changes = {"lr_type": "steps", "milestones": [1, 2], "warmup_epochs": 0}
    write_own_config(folder, CONFIG, optimizer=changes)
    assert train(folder, "run") == 0
    rates = [row["learning_rate"] for row in metrics(folder / "run")]
    assert np.allclose(rates, np.repeat([1, 0.1, 0.01], 3) * 8 / 256)


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["data.train_batch_size=7"], "data.train_batch_size may be 1, 2, 4, 8, 16"),
        (["model.queue_size=60"], "model.queue_size 56 or 64"),
        (["loss.c4.size=32"], "loss.c4.size: 32 px do not slide over a view of data.resize_size: 32 px"),
        (["data.resize_size=8", "loss.c4.size=4", "loss.c3.size=4"], "leave c4 a grid of 2 x 2"),
        (["optimizer.lr_type=steps"], "optimizer.milestones: [120, 160]"),
        (["loss.c4.sise=4"], "did you mean loss.c4.size?"),
        (["model.variant=c5"], "model.variant"),
    ],
)
def test_what_cannot_be_built_is_refused_with_a_remedy(folder, capsys, overrides, part):
    assert train(folder, "run", "--set", *overrides) == 2
    assert part in capsys.readouterr().err
    assert not (folder / "run").exists()


def test_a_batch_that_the_message_names_is_accepted(folder, capsys):
    train(folder, "run", "--set", "data.train_batch_size=3")
    named = re.search(r"train_batch_size may be ([\d, ]+)", capsys.readouterr().err).group(1).rstrip(", ").split(", ")
    for batch in named[:2]:
        assert train(folder, f"run{batch}", "--max_steps", "1", "--set", f"data.train_batch_size={batch}") == 0


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_parameters(folder):
    changes = {"optimizer": {"total_epochs": 12}, "checkpoint": {"save_minutes": 0.002}, "data": {"data_workers": 1}}
    write_own_config(folder, CONFIG, **changes)
    assert_a_killed_run_goes_on("resim", folder)
