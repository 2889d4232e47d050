import errno
import io
import json
import logging
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from utils import log as log_module
from utils import progress as progress_module
from utils.errors import UserError
from utils.log import RunLog, setup_logging
from utils.progress import ProgressBar


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def root_logger():
    yield logging.getLogger()
    for handler in [h for h in logging.getLogger().handlers if h.name in ("run console", "run file")]:
        logging.getLogger().removeHandler(handler)
        handler.close()


def test_numbers_and_scalar_tensors_become_one_strict_json_line_a_step(tmp_path):
    log = RunLog(tmp_path)
    log.scalars(10, {"loss": torch.tensor(0.5), "clusters": 127})
    log.scalars(20, {"loss": float("nan"), "norm": torch.tensor(float("inf"))})
    log.close()
    assert rows(tmp_path) == [{"step": 10, "loss": 0.5, "clusters": 127}, {"step": 20, "loss": None, "norm": None}]


def test_resuming_cuts_the_metrics_after_the_checkpoint_and_a_half_written_line(tmp_path):
    log = RunLog(tmp_path)
    for step in (10, 20, 30):
        log.scalars(step, {"loss": step})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 15, "lo')
    log = RunLog(tmp_path, resume_step=20)
    log.scalars(25, {"loss": 25})
    log.close()
    assert [row["step"] for row in rows(tmp_path)] == [10, 20, 25]


def test_a_new_run_replaces_the_metrics(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    RunLog(tmp_path).close()
    assert rows(tmp_path) == []


def events(folder: Path) -> list[Event]:
    """What an event file holds: length, checksum, event, checksum, and so on."""
    (path,) = folder.iterdir()
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def test_tensorboard_gets_the_numbers_and_forgets_the_steps_that_come_again(tmp_path):
    for folder, resume_step in (("elsewhere", 20), ("new", None)):
        log = RunLog(tmp_path, log_dir=tmp_path / folder, resume_step=resume_step)
        log.scalars(21, {"loss": 0.5, "rate": float("nan")})
        log.close()
        version, start, loss, rate = events(tmp_path / folder)
        assert version.file_version == "brain.Event:2"
        assert start.session_log.status == SessionLog.START and start.step == (resume_step or -1) + 1
        assert (loss.step, loss.summary.value[0].tag, loss.summary.value[0].simple_value) == (21, "loss", 0.5)
        assert np.isnan(rate.summary.value[0].simple_value) and rate.wall_time > 1e9


def test_a_disk_that_takes_no_more_events_is_told_where_they_are_written(tmp_path, monkeypatch):
    def write(self, event):
        raise OSError(errno.ENOSPC, "No space left on device")

    log = RunLog(tmp_path)
    monkeypatch.setattr(EventsWriter, "write_event", write)
    with pytest.raises(OSError, match="No space left on device.*tensorboard"):
        log.scalars(1, {"loss": 1.0})


def test_pictures_are_kept_exactly_as_png_and_reach_tensorboard(tmp_path):
    picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    log = RunLog(tmp_path)
    log.pictures(7, "regions", picture)
    log.close()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "pictures" / "regions_00000007.png")), picture)
    (shown,) = events(tmp_path / "tensorboard")[-1].summary.value
    assert shown.tag == "regions"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown.image.encoded_image_string))), picture)


def test_wandb_offline_keeps_a_run_and_resuming_goes_on_with_its_id(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for resume_step in (None, 1):
        log = RunLog(tmp_path, enable_wandb=True, config={"seed": 0}, resume_step=resume_step)
        log.scalars(1, {"loss": 0.5})
        log.close()
    run_id = (tmp_path / "wandb_id.txt").read_text()
    runs = list((tmp_path / "wandb").glob("offline-run-*"))
    # Of two in one second wandb numbers the second.
    assert runs and all(f"-{run_id}" in folder.name for folder in runs)


def test_a_missing_wandb_is_a_users_error_that_names_the_key(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="log.enable_wandb"):
        RunLog(tmp_path, enable_wandb=True)


def test_lines_go_to_the_console_and_to_the_runs_file_once(tmp_path, capsys, root_logger):
    setup_logging(None)
    setup_logging(tmp_path)
    log = RunLog(tmp_path)
    log.text("hello")
    logging.getLogger("x").warning("careful")
    log.close()
    assert capsys.readouterr().err.splitlines() == ["hello", "warning: careful"]
    assert [line.split()[-2:] for line in (tmp_path / "log.txt").read_text().splitlines()] == [
        ["INFO", "hello"],
        ["WARNING", "careful"],
    ]


def test_other_ranks_write_nothing_and_show_warnings_with_their_number(tmp_path, capsys, root_logger, monkeypatch):
    for module in (log_module, progress_module):
        monkeypatch.setattr(module, "is_main", lambda: False)
    monkeypatch.setattr(log_module, "rank", lambda: 3)
    setup_logging(tmp_path / "run")
    log = RunLog(tmp_path / "run")
    log.scalars(1, {"loss": 0.0})
    log.pictures(1, "x", np.zeros((2, 2, 3), np.uint8))
    log.text("hello")
    log.close()
    logging.warning("careful")
    with ProgressBar(10) as bar:
        bar.update(10)
    assert capsys.readouterr().err == "[rank 3] warning: careful\n"
    assert not (tmp_path / "run").exists()


def test_without_a_terminal_numbers_come_as_plain_lines_with_an_eta(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    with ProgressBar(2000, initial=100, desc="step") as bar:
        clock[0] += 10.0
        bar.update(110)
        bar.update(120, {"loss": torch.tensor(0.25)})
        clock[0] += 16.0
        bar.update(130)
        bar.update(2000)
    # 20 steps of this process took 10 s, the 100 before it are not counted: 1880 more take 940 s.
    assert capsys.readouterr().err.splitlines() == [
        "step 120/2000 loss=0.25 eta 15:40",
        "step 130/2000 eta 27:00",
        "step 2000/2000 eta 00:00",
    ]


def test_in_a_terminal_a_bar_shows_the_numbers(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with ProgressBar(20, initial=5) as bar:
        bar.update(10, {"loss": 0.25})
    shown = capsys.readouterr().err
    assert "10/20" in shown and "loss=0.25" in shown
