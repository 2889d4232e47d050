"""The main job on a small folder of pictures: launched, resumed, fed rubbish."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import r2o_main
import wiring
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
from tests.paths import ROOT
from tests.utils.two_ranks import free_port
from utils.config import load_config

CONFIG = {
    "model": TINY_MODEL | {"region_level": "c4"},
    "clustering": {"scheduler": {"type": "linear", "epochs": [1, 3], "values": [9, 3]}, "images_per_kmeans": 4},
    "data": {"resize_size": 32, "superpixel_size": 48, "slic_segments": 16, "data_workers": 0, "train_batch_size": 8},
    "optimizer": {"total_epochs": 3, "warmup_epochs": 1, "scale_lr_by_k": 4},
    "log": {"log_step": 1, "num_pictures": 2},
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """27 pictures of coloured rectangles below images/train, and a config beside them."""
    make_pictures(tmp_path)
    write_config(tmp_path)
    return tmp_path


def write_config(folder: Path, **sections: dict) -> None:
    write_own_config(folder, CONFIG, **sections)


def train(folder: Path, out: str, *arguments: str) -> int:
    return r2o_main.main(["--cfg", str(folder / "own.yaml"), "--out", str(folder / out), *arguments])


def test_a_run_leaves_everything_in_its_folder(folder):
    assert train(folder, "run") == 0
    run = folder / "run"
    rows = metrics(run)
    assert [row["step"] for row in rows] == list(range(1, 10))
    for name in (
        "loss",
        "learning_rate",
        "target_momentum",
        "clusters",
        "regions_per_image",
        "images_per_second",
        "data_wait_share",
        "step_seconds",
        "gradient_norm",
    ):
        assert all(np.isfinite(row[name]) for row in rows), name
    # K falls by the schedule's first-based epochs, and the rate follows it.
    assert [row["clusters"] for row in rows] == [9, 9, 9, 6, 6, 6, 3, 3, 3]
    assert (run / "config.yaml").exists() and list((run / "tensorboard").iterdir())
    assert len(list((run / "pictures").glob("regions_*.png"))) == 4
    backbone = torch.load(run / "backbone.pth", weights_only=True)
    assert "conv1.weight" in backbone and not any(key.startswith("fc.") for key in backbone)
    trained = newest(run)["method"]
    assert all(torch.equal(value, trained[f"backbone.{key}"]) for key, value in backbone.items())


def test_a_second_run_does_not_write_over_the_first(folder, capsys):
    assert train(folder, "run", "--max_steps", "1") == 0
    assert train(folder, "run") == 2
    assert "--resume auto" in capsys.readouterr().err


@pytest.mark.parametrize("steps", [3, 5])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(folder, steps):
    """Stopped at an epoch's end and within one."""
    assert train(folder, "whole") == 0
    assert train(folder, "parts", "--max_steps", str(steps)) == 0
    assert newest(folder / "parts")["step"] == steps
    assert train(folder, "parts", "--resume", "auto") == 0
    assert_same(newest(folder / "whole"), newest(folder / "parts"))
    whole, parts = ([(row["step"], row["loss"]) for row in metrics(folder / run)] for run in ("whole", "parts"))
    assert whole == parts


def test_workers_change_nothing(folder):
    assert train(folder, "none", "--max_steps", "4") == 0
    assert train(folder, "two", "--max_steps", "4", "--set", "data.data_workers=2") == 0
    assert_same(newest(folder / "none"), newest(folder / "two"))


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(folder, capsys):
    assert train(folder, "whole") == 0
    assert train(folder, "parts", "--max_steps", "6") == 0
    damaged = max((folder / "parts" / "checkpoints").glob("*.pth"), key=lambda path: path.stat().st_mtime_ns)
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    assert train(folder, "parts", "--resume", "auto") == 0
    assert f"{damaged} is damaged" in capsys.readouterr().err
    assert_same(newest(folder / "whole"), newest(folder / "parts"))


def test_a_checkpoint_after_a_forward_pass_loads_strictly(folder):
    """The release registers a submodule while it runs, and then cannot load its own checkpoints."""
    assert train(folder, "run", "--max_steps", "1") == 0
    state = newest(folder / "run")["method"]
    fresh = r2o_main.build(load(folder), torch.device("cpu")).method
    fresh.load_state_dict(state, strict=True)


def load(folder: Path) -> r2o_main.R2OConfig:
    return load_config(folder / "own.yaml", r2o_main.R2OConfig)[0]


def test_accumulated_micro_batches_count_in_the_global_batch(folder):
    write_config(folder, data={"train_batch_size": 4}, optimizer={"accumulate_steps": 2})
    assert train(folder, "run", "--max_steps", "2") == 0
    parts = r2o_main.build(load(folder), torch.device("cpu"))
    assert wiring.global_batch(load(folder)) == 8 and parts.plan.steps_per_epoch == 3
    rows = metrics(folder / "run")
    assert [row["step"] for row in rows] == [1, 2]


def test_a_divergence_stops_the_run_and_keeps_the_last_good_checkpoint(folder, capsys):
    write_config(folder, optimizer={"type": "sgd", "base_lr": 1e30}, log={"log_step": 1000})
    assert train(folder, "run") == 4
    message = capsys.readouterr().err
    assert "not finite at step" in message and "learning rate" in message and "gradient_norm" in message
    for path in (folder / "run" / "checkpoints").glob("*.pth"):
        state = torch.load(path, weights_only=True)["method"]
        assert all(torch.isfinite(value).all() for value in state.values() if value.is_floating_point())


def test_unreadable_images_are_named_and_replaced(folder, capsys):
    (folder / "images/train/class0/00.png").write_text("no picture")
    assert train(folder, "run", "--set", "data.max_bad_fraction=0.1") == 0
    assert "class0/00.png" in capsys.readouterr().err


def test_pictures_of_every_kind_are_trained_on(folder, capsys):
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    kinds = {
        "grey.jpg": colours.convert("L"),
        "cmyk.jpg": colours.convert("CMYK"),
        "palette.png": colours.convert("P"),
        "alpha.png": colours.convert("RGBA"),
        "pixel.png": colours.crop((0, 0, 1, 1)),
        "panorama.jpg": colours.resize((900, 30)),
        "deep.png": Image.fromarray(rng.integers(0, 65536, (30, 30)).astype(np.uint16)),
    }
    for name, picture in kinds.items():
        picture.save(folder / "images/train/class0" / name)
    assert (
        train(folder, "run", "--set", "data.max_bad_fraction=0", "data.train_batch_size=16", "optimizer.total_epochs=2")
        == 0
    )
    assert "cannot read" not in capsys.readouterr().err


def test_too_many_unreadable_images_stop_the_run(folder, capsys):
    (folder / "images/train/class0/00.png").write_text("no picture")
    assert train(folder, "run") == 3
    message = capsys.readouterr().err
    assert "1 of 27 images could not be read" in message and "class0/00.png" in message


def test_a_batch_larger_than_the_data_is_refused(folder, capsys):
    assert train(folder, "run", "--set", "data.train_batch_size=28") == 3
    assert "27 images are fewer than one optimiser step takes: 28" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("model.backbone.type=resnet51", "resnet51"),
        ("model.projection.input_dim=2048", "model.projection.input_dim: 2048, but 16 channels come in"),
        ("model.backbone.pretrained=nowhere.pth", "nowhere.pth"),
        ("data.image_dir=/nowhere", "/nowhere"),
        ("amp.backend=apex", "amp.backend: native"),
    ],
)
def test_what_cannot_be_built_is_refused_with_a_remedy(folder, capsys, override, part):
    assert train(folder, "run", "--set", override) in (2, 3)
    assert part in capsys.readouterr().err


def test_a_changed_config_is_named_on_resuming_and_its_optimiser_settings_hold(folder, capsys):
    assert train(folder, "run", "--max_steps", "2") == 0
    assert train(folder, "run", "--resume", "auto", "--max_steps", "3", "--set", "optimizer.weight_decay=0.5") == 0
    assert "optimizer.weight_decay: 1e-06 -> 0.5" in capsys.readouterr().err
    assert newest(folder / "run")["optimizer"]["param_groups"][0]["weight_decay"] == 0.5


def test_a_folder_that_is_no_run_cannot_be_resumed(folder, capsys):
    assert train(folder, "run", "--resume", str(folder / "images")) == 2
    assert "no run and no checkpoint" in capsys.readouterr().err


def test_a_new_run_does_not_pick_up_checkpoints_of_another(folder, capsys):
    write_config(folder, checkpoint={"time_stamp": "now", "ckpt_path": str(folder / "ckpt/{}/{}_{}_{}.pth")})
    assert train(folder, "one", "--max_steps", "3") == 0
    assert train(folder, "two") == 2
    assert "holds checkpoints of another run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("model.cluster_level=c5", "model.cluster_level: c5 lies above model.region_level: c4"),
        ("optimizer.warmup_epochs=4", "optimizer.warmup_epochs: 4.0 is more than"),
    ],
)
def test_settings_that_would_spoil_a_run_are_refused(folder, capsys, override, part):
    assert train(folder, "run", "--set", override) == 2
    assert part in capsys.readouterr().err


def test_a_damaged_map_of_a_worker_is_told_in_one_line(folder, capsys):
    assert train(folder, "run", "--max_steps", "1") == 0
    next((folder / "masks").rglob("*.png")).write_bytes(b"damaged")
    assert train(folder, "again", "--set", "data.data_workers=1") == 3
    assert "no complete PNG" in capsys.readouterr().err.splitlines()[-1]


def test_print_config_prints_what_would_be_used_and_stops(folder, capsys):
    assert train(folder, "run", "--print-config", "--set", "seed=5") == 0
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 5
    assert not (folder / "run").exists()


@pytest.mark.parametrize("spelling", ["--local_rank=0", "--local-rank=0"])
def test_both_spellings_of_local_rank_are_taken(folder, spelling):
    assert train(folder, "run", spelling, "--print-config") == 0


def test_low_precision_trains(folder):
    assert train(folder, "run", "--max_steps", "2", "--set", "amp.opt_level=O1") == 0


def test_no_clustering_compares_superpixels(folder):
    write_config(folder, clustering={"scheduler": {"type": "constant", "epochs": [0], "values": [9999]}})
    assert train(folder, "run", "--max_steps", "2") == 0
    rows = metrics(folder / "run")
    # Without clusters the rate is not scaled by their number: half-way through an epoch's warm-up of 3 steps.
    assert rows[1]["learning_rate"] == pytest.approx(0.3 * 8 / 256 / 3)


def test_published_paths_are_honoured(folder):
    checkpoint = {"time_stamp": "now", "ckpt_path": str(folder / "ckpt/{}/{}_{}_{}.pth.tar"), "save_epoch": 1}
    write_config(folder, checkpoint=checkpoint, log={"log_dir": str(folder / "tb")})
    assert train(folder, "run") == 0
    names = sorted(path.name for path in (folder / "ckpt" / "now").glob("*.tar"))
    assert names == [f"now_resnet_tiny_{epoch}.pth.tar" for epoch in (1, 2, 3)]
    assert list((folder / "tb").iterdir())


def test_two_processes_with_half_the_batch_equal_one(folder):
    """SyncBN on, four images a K-means group."""
    assert_two_processes_equal_one(folder, "r2o", CONFIG, {"own": {}})


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_goes_on_to_the_same_parameters(folder, number):
    """As schedulers do, the signal goes to the data workers too."""
    write_config(folder, optimizer={"total_epochs": 12}, checkpoint={"save_minutes": 0.002}, data={"data_workers": 1})
    assert_a_killed_run_goes_on("r2o", folder, number=number)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torch.distributed.run", "torch.distributed.launch"])
def test_two_processes_start_under_both_launchers(folder, launcher):
    write_config(folder, data={"train_batch_size": 4, "data_workers": 1})
    command = [
        sys.executable,
        "-m",
        launcher,
        "--nproc_per_node=2",
        "--nnodes=1",
        "--node_rank=0",
        "--master_addr=127.0.0.1",
        f"--master_port={free_port()}",
        "r2o_main.py",
        f"--cfg={folder / 'own.yaml'}",
        f"--out={folder / 'run'}",
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    rows = metrics(folder / "run")
    assert [row["step"] for row in rows] == list(range(1, 10))
