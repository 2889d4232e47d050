import json
import re

import pytest
import torch

from benchmarks import end_to_end
from benchmarks.report import Report
from tests.mains.runs import make_pictures
from tests.paths import ROOT
from utils.errors import UserError


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    make_pictures(tmp_path)
    threads = torch.get_num_threads()
    # The demos' networks with fewer channels.
    settings = ["model.backbone.width=4", "data.data_workers=0", f"data.image_dir={tmp_path}"]
    yield lambda *words: end_to_end.main(
        ["--set", *settings, "--steps", "3", "--repeats", "2", "--batch", "4", "--threads", "1", *words]
    )
    torch.set_num_threads(threads)


def rows_of(path):
    return json.loads(path.read_text())["rows"]


@pytest.mark.parametrize(
    ("method", "name", "settings"),
    [
        ("r2o", "r2o", ["data.slic_segments=9"]),
        ("resim", "resim", ["model.queue_size=64"]),
        ("orl", "byol", []),
    ],
)
def test_a_method_is_measured_whole_and_in_parts(method, name, settings, command, tmp_path, capsys):
    words = ["--set", *settings] if settings else []
    assert command("--method", method, *words, "--json", str(tmp_path / "out.json")) == 0
    (row,) = rows_of(tmp_path / "out.json")
    assert (row["what"], row["workers"], row["batch"], row["size"]) == (name, 0, 4, 48)
    assert row["of_slower_share"] > 0 and row["data_images_per_second"] > 0 and row["step_images_per_second"] > 0
    low, high = row["whole_range"]
    assert 0 < row["wait_share"] < 1 and 0 < low <= row["whole_images_per_second"] <= high and row["read_ms"] > 0
    text = capsys.readouterr().out
    assert re.search(rf"^{name} \(workers 0, batch 4, size 48\), 3 steps, 2 times$", text, re.MULTILINE)
    assert ("finding regions" in text) == (name != "byol") == ("regions_images_per_second" in row)


def test_sweeps_go_over_workers_and_batches(command, tmp_path):
    words = ["--method", "orl", "--sweep", "workers", "0", "1", "--sweep", "batch", "3"]
    assert command(*words, "--json", str(tmp_path / "out.json")) == 0
    assert [(row["workers"], row["batch"]) for row in rows_of(tmp_path / "out.json")] == [(0, 4), (1, 4), (0, 3)]


def test_waiting_is_the_share_of_the_time_in_which_no_batch_is_there(command, tmp_path, monkeypatch):
    monkeypatch.setattr(end_to_end, "_with_step", lambda parts, device: lambda batch: None)
    monkeypatch.setattr(end_to_end, "FIND_REGIONS", {})
    assert command("--method", "r2o", "--json", str(tmp_path / "out.json")) == 0
    (row,) = rows_of(tmp_path / "out.json")
    # Without workers every image is read while the step waits, and next to nothing is done with it.
    assert row["wait_share"] > 0.5


def test_the_ratio_to_the_slower_part_is_taken_within_each_pass(tmp_path):
    found = {"data path": [4.0, 8.0, 100.0], "step, with both": [5.0, 4.0, 10.0], "whole training": [2.0, 1.0, 9.0]}
    with Report("end_to_end", end_to_end.make_parser("").parse_args(["--json", str(tmp_path / "out.json")])) as report:
        end_to_end.tell(report, "r2o", {"batch": 4}, found | {"wait": [0.1] * 3, "read": [1.0] * 3}, steps=3)
    (row,) = rows_of(tmp_path / "out.json")
    assert row["of_slower_share"] == 0.5 and row["whole_images_per_second"] == 2 and row["whole_range"] == [1, 9]


def test_an_epoch_that_holds_too_few_batches_is_refused(command, caplog):
    assert command("--method", "orl", "--batch", "9") == UserError.exit_code
    assert "3 batches and 6 are needed" in caplog.text


def test_all_methods_are_those_that_have_a_main(command, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(end_to_end, "places", lambda method, arguments: [{"batch": 4}])
    monkeypatch.setattr(end_to_end, "run", lambda report, method, arguments, point: seen.append(method))
    assert command("--method", "all") == 0 and {"r2o", "detconb", "resim", "orl", "cyborgs"} <= {*seen}
