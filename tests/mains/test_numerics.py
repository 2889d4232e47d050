"""Whole runs in few bits, with clipped gradients, and with repeatable kernels."""

from pathlib import Path

import pytest
import torch

import r2o_main
from tests.mains.runs import assert_same, make_pictures, metrics, newest, write_own_config
from tests.mains.test_r2o import CONFIG


@pytest.fixture
def folder(tmp_path) -> Path:
    make_pictures(tmp_path)
    return tmp_path


def train(folder: Path, out: str, *arguments: str, **sections: dict) -> int:
    write_own_config(folder, CONFIG, **sections)
    return r2o_main.main(["--cfg", str(folder / "own.yaml"), "--out", str(folder / out), *arguments])


def finite(state: dict) -> bool:
    return all(torch.isfinite(value).all() for value in state["method"].values() if value.is_floating_point())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_run_in_few_bits_stops_and_goes_on_to_the_same_parameters(folder, dtype):
    """The loss scale and the steps skipped are in the log of float16."""
    amp = {"opt_level": "O1", "dtype": dtype}
    assert train(folder, "whole", amp=amp) == 0
    assert train(folder, "parts", "--max_steps", "5", amp=amp) == 0
    assert train(folder, "parts", "--resume", "auto", amp=amp) == 0
    assert_same(newest(folder / "whole"), newest(folder / "parts"))
    assert newest(folder / "whole")["precision"] == newest(folder / "parts")["precision"]
    assert finite(newest(folder / "whole"))
    rows = metrics(folder / "whole")
    assert all(("loss_scale" in row) == ("skipped_steps" in row) == (dtype == "float16") for row in rows)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_divergence_in_few_bits_ends_the_run_and_leaves_whole_numbers(folder, dtype, capsys):
    amp, optimizer = {"opt_level": "O1", "dtype": dtype}, {"type": "sgd", "base_lr": 1e30}
    assert train(folder, "run", amp=amp, optimizer=optimizer) == 4
    assert "not finite at step" in capsys.readouterr().err
    assert all(finite(torch.load(path, weights_only=True)) for path in (folder / "run/checkpoints").glob("*.pth"))


def test_clipping_changes_the_steps_and_not_the_norm_that_is_logged(folder):
    """The first step of a warm-up has a rate of zero."""
    sgd = {"type": "sgd", "base_lr": 1.0}
    assert train(folder, "free", "--max_steps", "3", optimizer=sgd) == 0
    assert train(folder, "clipped", "--max_steps", "3", optimizer=sgd | {"clip_norm": 0.1}) == 0
    free, clipped = ([row["gradient_norm"] for row in metrics(folder / run)] for run in ("free", "clipped"))
    assert free[:2] == clipped[:2] and min(free) > 0.1
    assert free[2] != clipped[2]


def test_repeatable_kernels_are_asked_for_and_repeat(folder):
    try:
        assert train(folder, "one", "--deterministic", "--max_steps", "4") == 0
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
        assert train(folder, "two", "--deterministic", "--max_steps", "4") == 0
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same(newest(folder / "one"), newest(folder / "two"))
    assert train(folder, "free", "--max_steps", "1") == 0
    assert torch.backends.cudnn.benchmark
