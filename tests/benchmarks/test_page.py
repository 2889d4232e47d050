import importlib
import json
import re

import pytest

from benchmarks import __main__ as everything
from benchmarks.page import main, table
from tests.paths import ROOT

HEAD = {
    "processor": "A Processor",
    "device": "cpu",
    "threads": 2,
    "torch": "2.6",
    "date": "2026-01-01",
    "load_before": 0.1,
}


def write_page(tmp_path, measured):
    for name, content in measured.items():
        (tmp_path / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    page = tmp_path / "page.md"
    page.write_text("Words.\n<!-- table kmeans -->\nold\n<!-- end -->\nMore.\n<!-- table step_cuda -->\n<!-- end -->\n")
    code = main([str(tmp_path), "--write", str(page)])
    return code, page.read_text()


def test_a_table_stands_between_its_marks_with_what_it_was_measured_on(tmp_path):
    rows = [{"what": "K-means", "clusters": 4, "ours_ms": 1.23456, "baseline_ms": 1234.5, "ratio": 1000.0}]
    code, text = write_page(tmp_path, {"kmeans": HEAD | {"rows": rows}})
    assert code == 0 and "old" not in text
    assert (
        "| what | clusters | ours ms | baseline ms | ratio |\n|---|---|---|---|---|\n| K-means | 4 | 1.23 | 1,234 | 1,000 |"
        in text
    )
    assert "A Processor, 2 threads, torch 2.6, 2026-01-01." in text
    assert text.endswith("<!-- table step_cuda -->\nNot measured.\n<!-- end -->\n")


def test_each_set_of_columns_is_a_table_whatever_the_order_of_rows():
    text = table([{"what": "a", "ms": 1.0}, {"what": "c", "peak_mb": None}, {"what": "b", "ms": 2.0}])
    assert text == "| what | ms |\n|---|---|\n| a | 1 |\n| b | 2 |\n\n| what | peak MB |\n|---|---|\n| c | – |"


def test_what_all_rows_share_is_said_once():
    rows = [{"what": "step", "batch": 8, "size": size, "ms": 1.0} for size in (64, 96)]
    assert table(rows).startswith("All with batch 8:\n\n| what | size | ms |\n")


def test_parts_are_lines_and_what_has_them_columns():
    rows = [
        {"part": part, "method": name, "ms": 1.0} for name, part in (("r2o", "loss"), ("orl", "loss"), ("orl", "EMA"))
    ]
    assert table(rows) == "| part, ms | r2o | orl |\n|---|---|---|\n| loss | 1 | 1 |\n| EMA | – | 1 |"


def test_numbers_of_a_place_are_said_with_their_axis():
    rows = [{"part": "loss", "batch": batch, "size": 64, "ms": 1.0} for batch in (2, 4)]
    assert table(rows) == "All with size 64:\n\n| part, ms | batch 2 | batch 4 |\n|---|---|---|\n| loss | 1 | 1 |"


@pytest.mark.parametrize("content", ["no JSON", {"rows": []}])
def test_a_file_of_something_else_is_named_and_the_page_stays(tmp_path, capsys, content):
    code, text = write_page(tmp_path, {"kmeans": content})
    assert code == 2 and "old" in text and "kmeans.json" in capsys.readouterr().err


@pytest.mark.parametrize("command", [*everything.COMMANDS, everything.ON_GPU[0]], ids=lambda command: command.name)
def test_every_command_has_the_options_that_its_line_uses(command, capsys):
    module, *words = command.line.split()
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"benchmarks.{module}").main(["--help"])
    assert stopped.value.code == 0
    known = set(re.findall(r"--\w+", capsys.readouterr().out))
    assert {word for word in words if word.startswith("--")} | {"--json", "--device"} <= known


def test_the_page_has_a_place_for_every_command():
    marks = set(re.findall(r"<!-- table (\w+) -->", (ROOT / "docs" / "performance.md").read_text()))
    names = {command.name for command in everything.COMMANDS}
    assert names | {f"{command.name}_cuda" for command in everything.ON_GPU} == marks


def test_folders_with_spaces_stay_whole(capsys):
    assert everything.main(["--out", "o", "--images", "/my photos", "--only", "data_path", "--dry-run"]) == 0
    assert "'/my photos/images'" in capsys.readouterr().out


def test_what_no_gpu_is_needed_for_is_told(capsys):
    assert everything.main(["--out", "o", "--only", "data_path", "--device", "cuda", "--dry-run"]) == 0
    assert capsys.readouterr().out == "data_path: left out, it is not measured on a GPU\n"


def test_what_is_there_is_not_measured_again_and_what_fails_is_named(tmp_path, capsys, monkeypatch):
    commands = tuple(everything.Command(name, f"{name} --batch 2") for name in ("nothing", "windows"))
    monkeypatch.setattr(everything, "COMMANDS", commands)
    (tmp_path / "windows.json").write_text("{}")
    assert everything.main(["--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "failed: nothing" in said.err and "windows.json is there already" in said.out
    assert "No module named" in (tmp_path / "nothing.txt").read_text()
