import json
import re

import numpy as np
import pytest

from tests.tools.fake_runs import charts_of, make_run
from tools import report
from tools.report import make_page, read_report
from utils.files import write_json


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_holds_all_that_was_read_and_names_no_other_file(tmp_path):
    run, output = make_run(tmp_path / "run"), tmp_path / "page.html"
    assert report.main([str(run), "--output", str(output)]) == 0
    page = output.read_text()
    shown = read_report([run])
    assert data_of(page) | {"made": ""} == json.loads(json.dumps(shown)) | {"made": ""}
    outside = page.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|@import|<link(?! rel=\"icon\" href=\"data:,\")|<script [^>]*src|url\(", outside)


def test_no_name_ends_the_element_that_it_stands_in_or_fills_a_slot(tmp_path):
    run = make_run(tmp_path / "<b>&{{data}}", settings={"note": "</script><script>alert(1)</script><!--"})
    page = make_page(read_report([run]))
    assert data_of(page)["runs"][0]["name"] == "<b>&{{data}}"
    assert page.count("</script>") == 2 and "<b>" not in page
    assert data_of(page)["runs"][0]["config"].count("</script>") == 2


def test_a_curve_has_the_points_of_the_log(tmp_path):
    run = make_run(tmp_path / "run", clusters=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    charts = charts_of(read_report([run]))
    for name in ("total_loss", "learning_rate", "clusters", "regions_per_image", "data_wait_share"):
        (line,) = charts[name]["lines"]
        assert line["run"] == 0 and line["of"] == len(rows)
        expected = [(row["step"], row["epoch"], row[name]) for row in rows]
        np.testing.assert_allclose(line["points"], expected, rtol=1e-5)


def test_a_log_that_is_cut_or_holds_no_finite_number_is_shown_as_far_as_it_goes(tmp_path):
    run = make_run(tmp_path / "run", epochs=1)
    (run / "backbone.pth").unlink()
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 12, "epoch": 1.2, "total_loss": null}\n{"step": 16, "total_lo')
    shown = read_report([run])
    assert charts_of(shown)["total_loss"]["lines"][0]["points"][-1] == [12, 1.2, None]
    assert "1 of 5 lines" in shown["notes"][0]
    assert shown["summary"]["rows"][0][1].startswith("not finished, last line 2")


def test_a_run_that_has_logged_and_drawn_nothing_is_a_run(tmp_path):
    run = make_run(tmp_path / "run", picture=None)
    (run / "metrics.jsonl").unlink()
    (run / "backbone.pth").unlink()
    shown = read_report([run])
    assert shown["galleries"] == [] and charts_of(shown) == {}
    assert shown["summary"]["rows"][0][:3] == ["run", "nothing logged yet", "-"]
    make_page(shown)


def test_a_run_that_max_steps_ended_is_not_finished(tmp_path):
    run = make_run(tmp_path / "run", epochs=2)
    assert read_report([run])["summary"]["rows"][0][1] == "finished"
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[:-1]))
    assert read_report([run])["summary"]["rows"][0][1].startswith("not finished, last line 2")


def test_the_title_of_many_runs_is_their_number(tmp_path):
    runs = [make_run(tmp_path / name, epochs=1, picture=None) for name in "abcde"]
    assert read_report(runs[:4])["title"] == "a, b, c, d"
    assert read_report(runs)["title"] == "5 runs"


def make_evaluation(folder, *, weights, metrics):
    folder.mkdir(parents=True)
    entry = {"program": "knn", "protocol": "demo", "weights": weights, "network": "online", "metrics": metrics}
    write_json(folder / "results.json", entry)
    return folder


def test_evaluations_stand_beside_each_other(tmp_path):
    one = make_evaluation(tmp_path / "all" / "knn" / "one", weights="runs/a", metrics={"top-1": 0.5})
    make_evaluation(tmp_path / "all" / "knn" / "two", weights=None, metrics={"top-1": 0.25, "top-5": 0.75})
    shown = read_report([tmp_path / "all", one / "results.json"])
    (table,) = (table for section in shown["sections"] for table in section["tables"])
    assert table["head"] == ["protocol", "metric", "runs/a", "untrained"]
    assert table["rows"] == [["knn demo", "top-1", "50.00", "25.00"], ["knn demo", "top-5", "-", "75.00"]]
    assert shown["runs"] == [] and shown["title"] == "Evaluations"
    make_page(shown)


def test_a_folder_of_stages_stands_for_its_stages(tmp_path):
    root = tmp_path / "orl"
    make_run(root / "stage1", picture="patches")
    make_run(root / "stage3", picture="patches", losses=("loss_global", "loss_intra"))
    stage_2 = make_run(root / "stage2", picture="pairs", epochs=1)
    (stage_2 / "run.json").unlink()
    (stage_2 / "metrics.jsonl").write_text("")
    write_json(root / "run.json", {})
    shown = read_report([root])
    assert [run["name"] for run in shown["runs"]] == ["orl/stage1", "orl/stage2", "orl/stage3"]
    assert {gallery["name"] for gallery in shown["galleries"]} == {"patches", "pairs"}


def damage_history(run):
    (run / "probe_history.json").write_text("[1")


def damage_quality(run):
    (run / "mask_quality.json").write_text("[1]")


def damage_config(run):
    (run / "config.yaml").write_text("a: [")


@pytest.mark.parametrize("damage", [damage_history, damage_quality, damage_config])
def test_a_damaged_file_is_named(tmp_path, capsys, damage):
    run = make_run(tmp_path / "run", epochs=1)
    damage(run)
    assert report.main([str(run), "--output", str(tmp_path / "page.html")]) == 2
    said = capsys.readouterr().err
    assert str(run) in said and "Traceback" not in said and not (tmp_path / "page.html").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for name, words in (("empty", "no run there"), ("absent", "no such folder")):
        assert report.main([str(tmp_path / name)]) == 2
        assert words in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_an_error_of_the_user(tmp_path, capsys):
    run = make_run(tmp_path / "run", epochs=1)
    assert report.main([str(run), "--output", str(tmp_path)]) == 2
    assert "--output" in capsys.readouterr().err
