import json

import pytest

from evaluation import table
from evaluation.results import format_results, read_results
from utils.errors import UserError


def entry(weights, program="knn", protocol="demo", **metrics):
    return {"program": program, "protocol": protocol, "weights": weights, "network": "online", "metrics": metrics}


def test_weights_are_columns_and_what_one_lacks_is_a_dash():
    text = format_results([entry(None, top1=0.25), entry("runs/a", top1=0.5, top5=1.0)])
    header, rule, *rows = text.splitlines()
    assert header.split() == ["protocol", "metric", "untrained", "runs/a"]
    assert rows[0].split() == ["knn", "demo", "top1", "25.00", "50.00"]
    assert rows[1].split() == ["knn", "demo", "top5", "-", "100.00"]


def test_protocols_do_not_share_a_row():
    text = format_results([entry("a", ap=0.1, protocol="coco_moco_1x"), entry("b", ap=0.2, protocol="coco_detcon_24k")])
    assert len(text.splitlines()) == 4


def test_what_was_judged_several_times_by_one_protocol_has_a_column_each_time():
    entries = [entry("a", ap=0.1), entry("a", ap=0.2), entry("a", ap=0.3, protocol="other")]
    header, _, first, second = format_results(entries).splitlines()
    assert header.split() == ["protocol", "metric", "a", "a", "#2"]
    assert first.split()[-2:] == ["10.00", "20.00"] and second.split()[-2:] == ["30.00", "-"]


def test_the_target_is_another_column_than_the_online_network():
    text = format_results([entry("a", ap=0.1), entry("a", ap=0.2) | {"network": "target"}])
    assert text.splitlines()[0].split() == ["protocol", "metric", "a", "a", "(target)"]


def test_folders_and_files_are_read_and_anything_else_refused(tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps(entry("a", ap=0.125)))
    assert read_results(tmp_path) == read_results(tmp_path / "results.json")
    assert table.main([str(tmp_path)]) == 0
    assert "12.50" in capsys.readouterr().out
    (tmp_path / "unfinished").mkdir()
    assert table.main([str(tmp_path), str(tmp_path / "unfinished")]) == 0
    output = capsys.readouterr()
    assert "12.50" in output.out and "unfinished/results.json: no such file" in output.err
    assert table.main([str(tmp_path / "unfinished")]) == 2
    for text, message in (("{", "damaged"), ("[]", "no results of an evaluation"), (None, "no such file")):
        path = tmp_path / "other.json"
        path.unlink(missing_ok=True)
        if text:
            path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_results(path)
