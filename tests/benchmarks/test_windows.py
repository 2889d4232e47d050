import sys

import pytest
import torch

from benchmarks import windows
from models import windows as matching

ARGUMENTS = ["--images", "2", "--threads", "1"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(windows, "CHANNELS", 8)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux alone")
def test_the_command_prints_a_line_for_each_part_of_both_levels(capsys):
    windows.main(ARGUMENTS)
    header, *lines = capsys.readouterr().out.splitlines()
    assert "threads" in header
    assert [line.partition(",")[0] for line in lines] == ["C4"] * 4 + ["C3"] * 4
    assert all("ratio" in line and "MB" in line for line in lines)


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("inside", lambda right: lambda spans: right(spans + 0.1)),
        ("pool_windows", lambda right: lambda maps, rows, columns: right(maps, rows, columns + 0.1)),
        ("info_nce", lambda right: lambda *tensors, **options: right(*tensors, **options | {"weight": None})),
    ],
)
def test_forms_that_disagree_are_not_timed(monkeypatch, capsys, part, wrong):
    # What decides which windows are shown is called by the matching that the benchmark calls.
    owner = matching if part == "inside" else windows
    monkeypatch.setattr(owner, part, wrong(getattr(owner, part)))
    with pytest.raises(AssertionError):
        windows.main(ARGUMENTS)
    assert "ratio" not in capsys.readouterr().out
