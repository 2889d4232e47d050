import json

import pytest
import torch

from benchmarks.compare import alternate, compare
from benchmarks.report import Axis, Report, check_sizes, make_parser, points
from utils.errors import UserError

AXES = (Axis("batch", 8, (2, 4), "images"), Axis("size", 224, (96, 224), "pixels"))


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def parse(*words):
    return make_parser("text", AXES).parse_args(words)


def test_without_a_sweep_the_options_give_one_point():
    assert list(points(parse("--batch", "3"), AXES)) == [{"batch": 3, "size": 224}]


def test_a_sweep_varies_one_axis_and_keeps_the_others():
    found = list(points(parse("--size", "64", "--sweep", "batch", "--sweep", "size", "32"), AXES))
    assert found == [{"batch": 2, "size": 64}, {"batch": 4, "size": 64}, {"batch": 8, "size": 32}]


@pytest.mark.parametrize("words", [("colour",), ("batch", "0"), ("batch", "many")])
def test_a_sweep_of_nothing_is_refused_by_name(words):
    with pytest.raises(UserError, match=words[0]):
        list(points(parse("--sweep", *words), AXES))


def test_an_axis_may_begin_at_zero_and_have_no_default():
    axes = (Axis("workers", None, (0, 2), "processes", least=0),)
    parser = make_parser("text", axes)
    assert parser.parse_args([]).workers is None and parser.parse_args(["--workers", "0"]).workers == 0
    arguments = parser.parse_args(["--sweep", "workers"])
    assert list(points(arguments, axes)) == [{"workers": 0}, {"workers": 2}]
    with pytest.raises(SystemExit):
        parser.parse_args(["--workers", "-1"])


def test_a_size_without_a_whole_grid_is_refused():
    check_sizes([{"size": 96}, {"size": 224}], 32)
    with pytest.raises(UserError, match="--size 240: must be a multiple of 32"):
        check_sizes([{"size": 96}, {"size": 240}], 32)


def test_lines_are_printed_and_written_with_the_machine(tmp_path, capsys):
    with Report("sum", parse("--threads", "1", "--json", str(tmp_path / "sum.json"))) as report:
        compare(report, "sum", lambda: sum(range(10)), lambda: sum(range(10_000)), point={"batch": 2})
    written = json.loads((tmp_path / "sum.json").read_text())
    assert written["benchmark"] == "sum" and written["axes"] == ["batch", "size"]
    assert written["threads"] == 1 and written["processor"]
    (row,) = written["rows"]
    assert row["what"] == "sum" and row["batch"] == 2 and row["ratio"] > 1
    assert row["ratio"] == pytest.approx(row["baseline_ms"] / row["ours_ms"])
    assert "sum (batch 2)" in capsys.readouterr().out


def test_what_was_measured_before_an_error_is_written(tmp_path):
    with pytest.raises(RuntimeError), Report("sum", parse("--json", str(tmp_path / "sum.json"))) as report:
        report.line("first", what="first", ms=1.0)
        raise RuntimeError
    assert [row["what"] for row in json.loads((tmp_path / "sum.json").read_text())["rows"]] == ["first"]


def test_forms_take_turns_after_a_run_each_that_does_not_count():
    calls = []
    times = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3)
    assert "".join(calls) == "abababab" and set(times) == {"a", "b"}


@pytest.mark.parametrize("device, said", [("cuda:99", "GPUs here"), ("graphics", "must be cpu")])
def test_a_device_that_is_not_there_is_told_at_once(device, said, capsys):
    with pytest.raises(SystemExit):
        parse("--device", device)
    assert said in capsys.readouterr().err
