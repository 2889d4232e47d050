import json

import pytest

from benchmarks import scaling, scaling_tables
from benchmarks.network import Network
from benchmarks.scaling_tables import WORLDS, Case, gathers_overtake, overtakes_compute, share_that_hides, times
from benchmarks.traffic import GRADIENTS, Collective
from tests.paths import ROOT

MEGABYTE = 1_000_000
FREE = Network(gbits=8, gpus=1, start=0, hop=0, hop_inside=0, tree_start=0, tree_hop=0)


def case_of(*parts: Collective) -> Case:
    return Case("some", 32, dict.fromkeys(WORLDS, list(parts)))


def test_the_page_is_what_the_command_writes():
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert scaling.renew(text) == text, "run python -m benchmarks.scaling --write docs/scaling.md"


def test_computation_waits_for_the_last_bucket_and_all_that_is_no_gradient():
    parts = [
        Collective(GRADIENTS, "all_reduce", (4 * MEGABYTE, 2 * MEGABYTE), hides=1),
        Collective("targets", "all_gather", (MEGABYTE,)),
    ]
    # Two processes: a sum sends its bytes once, a gather too; 1 MB takes a millisecond.
    assert times(parts, 2, FREE) == pytest.approx((2 + 1, 4))
    assert share_that_hides(parts, 2) == pytest.approx(4 / 7)


def test_communication_overtakes_where_it_takes_longer_than_the_step():
    case = case_of(Collective("targets", "all_gather", (MEGABYTE,)))
    # W - 1 milliseconds.
    assert [overtakes_compute(case, step, FREE) for step in (0.5, 7, 7.1, 500, 2000)] == [2, 16, 16, 512, None]


def test_gathers_overtake_gradients_where_they_carry_more():
    gathered = Collective("targets", "all_gather", (MEGABYTE,))
    # 20 MB x 2 (W - 1) / W against W - 1.
    assert gathers_overtake(case_of(Collective(GRADIENTS, "all_reduce", (20 * MEGABYTE,)), gathered)) == 64
    assert gathers_overtake(case_of(Collective(GRADIENTS, "all_reduce", (20 * MEGABYTE,)))) is None


def test_the_command_says_of_measured_steps_where_they_are_overtaken(tmp_path, capsys):
    rows = [{"what": "step", "method": "detconb", "ms": 120.0}, {"what": "loss", "method": "resim", "ms": 1.0}]
    (tmp_path / "step.json").write_text(json.dumps({"rows": rows}))
    arguments = ["--step_ms", str(tmp_path / "step.json"), "--json", str(tmp_path / "scaling.json"), "--threads", "1"]
    assert scaling.main(arguments) == 0
    printed, found = capsys.readouterr().out, json.loads((tmp_path / "scaling.json").read_text())["rows"]
    assert "detconb: communication takes longer than a step of 120 ms at 25 Gbit/s from" in printed
    assert "resim: its step was not measured" in printed
    overtaken = {row["gbits"]: row["processes"] for row in found if row["what"] == "overtakes"}
    assert overtaken.keys() == {25, 400} and overtaken[25] < overtaken[400]
    for row in found:
        if row["what"] == "time" and row["method"] == "detconb":
            longer = row["waits_ms"] + row["hides_ms"] > 120
            assert longer == (row["processes"] >= overtaken[row["gbits"]])


def test_another_config_of_one_method_is_told_by_itself(capsys):
    assert scaling.main(["--method", "resim", "--cfg", "mocov2_imagenet_200ep", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "keys" in printed and "negatives" not in printed and "r2o" not in printed


@pytest.mark.parametrize("rows", [[{"batch": 64}], [{}, {}]])
def test_steps_that_the_bytes_are_not_of_are_refused(tmp_path, caplog, rows):
    rows = [{"what": "step", "method": "detconb", "ms": 1.0} | row for row in rows]
    (tmp_path / "step.json").write_text(json.dumps({"rows": rows}))
    assert scaling.main(["--step_ms", str(tmp_path / "step.json")]) == 2
    assert "detconb" in caplog.text


@pytest.mark.parametrize("step", ["nowhere.json", "rows.json"])
def test_steps_that_cannot_be_read_are_refused(tmp_path, monkeypatch, caplog, step):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.json").write_text(json.dumps({"rows": [{"what": "loss"}]}))
    assert scaling.main(["--step_ms", step]) == 2
    assert f"--step_ms {step}" in caplog.text


@pytest.mark.parametrize(
    "arguments", [["--set", "amp.sync_bn=false"], ["--write", "docs/scaling.md", "--method", "r2o"]]
)
def test_options_that_do_not_go_together_are_refused(arguments):
    with pytest.raises(SystemExit):
        scaling.main(arguments)


def test_sync_batch_norm_is_told_only_where_it_is():
    alone = case_of(Collective(GRADIENTS, "all_reduce", (MEGABYTE,)))
    assert "SyncBN" not in scaling_tables.page([alone])
