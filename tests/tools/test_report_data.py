import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.meter import Meter
from tests.tools.fake_runs import charts_of, make_run
from tools.report import read_report
from tools.report_charts import _STYLES, metric_charts
from tools.report_data import loss_names, read_runs, short_names, sort_folders, thin
from utils.files import write_json
from utils.method import Output


def test_losses_are_what_adds_up_to_the_total():
    names = ("gradient_norm", "loss", "vmf", "replaced", "total_loss")
    rows = [dict(zip(names, values)) for values in ((3, 2, 0, 1, 2), (3, 2, 0.5, 1, 2.5))]
    assert loss_names(rows) == ["loss", "vmf"]
    assert loss_names(rows[:1]) == ["loss"]
    assert loss_names([dict(zip(names, (3, 2, 0.5, 1, 9)))]) == [] == loss_names([])


def test_a_loss_that_stands_alone_is_not_drawn_beside_its_total(tmp_path):
    alone, several = make_run(tmp_path / "alone"), make_run(tmp_path / "several", losses=("loss_moco", "loss_c4"))
    charts = charts_of(read_report([alone, several]))
    assert "loss" not in charts and len(charts["total_loss"]["lines"]) == 2
    for name in ("loss_moco", "loss_c4"):
        assert charts[name]["unit"] == "loss" and [line["run"] for line in charts[name]["lines"]] == [1]
    assert list(charts)[:3] == ["total_loss", "loss_moco", "loss_c4"]


def test_what_the_loop_measures_has_a_unit():
    meter = Meter(torch.device("cpu"), images_per_step=1)
    list(meter.timed([0]))
    meter.add(Output({"loss": torch.ones(())}, {}))
    meter.end_step()
    assert meter.read().keys() - {"loss"} <= _STYLES.keys()


def test_thinned_points_keep_ends_extremes_and_gaps():
    rng = np.random.default_rng(0)
    points = [[step, None, float(value)] for step, value in enumerate(rng.normal(size=5000))]
    points[1234][2], points[2000][2], points[3000][2] = None, 99.0, -99.0
    thinned = thin(points, 200)
    assert 100 < len(thinned) <= 200
    assert thinned[0][:3] == points[0] and thinned[-1][:3] == points[-1]
    for place in (1234, 2000, 3000):
        assert points[place] in (point[:3] for point in thinned)
    assert thinned == sorted(thinned, key=lambda point: point[0])
    assert thin(points[:200], 200) == points[:200]


def test_thinned_points_have_the_mean_of_what_they_stand_for():
    # Mostly low, so that the middle of the extremes is far from the mean.
    points = [[step, None, 10.0 if step % 10 == 0 else 1.0] for step in range(5000)]
    points[1234][2] = None
    thinned = thin(points, 200)
    assert [mean for *_, mean in thinned] == pytest.approx([1.9] * len(thinned), abs=0.2)
    assert thin([[step, None, None] for step in range(300)], 200)[5][2:] == [None, None]


def test_many_lines_are_thinned_and_say_so(tmp_path):
    run = make_run(tmp_path / "run", picture=None)
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    lines = (json.dumps(row | {"step": step, "epoch": step / 10}) for step in range(1, 4001))
    (run / "metrics.jsonl").write_text("\n".join(lines))
    (line,) = next(chart for chart in metric_charts(read_runs([run])) if chart["id"] == "learning_rate")["lines"]
    assert len(line["points"]) <= 2000 < line["of"] == 4000


def test_configs_are_compared_key_by_key(tmp_path):
    settings = {"model": {"base_momentum": 0.9, "extra": [1, 2]}}
    runs = [
        make_run(tmp_path / "one"),
        make_run(tmp_path / "two", settings=settings, seed=1),
        make_run(tmp_path / "three"),
    ]
    shown = read_report(runs)["differences"]
    assert shown["head"] == ["key", "one", "two", "three"]
    assert sorted(shown["rows"]) == [
        ["model.base_momentum", "0.99", "0.9", "0.99"],
        ["model.extra", "-", "[1, 2]", "-"],
        ["seed", "0", "1", "0"],
    ]


def test_a_section_that_a_run_lacks_is_compared_by_its_keys(tmp_path):
    settings = ({"loss": {"c4": {"size": 8}}}, {}, {"loss": {"c4": {"size": 8}, "weight": 1}})
    runs = [make_run(tmp_path / str(i), settings=one, epochs=1) for i, one in enumerate(settings)]
    assert read_report(runs)["differences"]["rows"] == [["loss.c4.size", "8", "-", "8"], ["loss.weight", "-", "-", "1"]]


def test_probes_over_time_and_of_the_finished_run_are_shown(tmp_path):
    run = make_run(tmp_path / "run")
    history = [
        {"step": 30, "epoch": 3, "region accuracy": 0.6, "sha": "ab"},
        {"step": 0, "epoch": 0, "region accuracy": 0.2},
    ]
    write_json(run / "probe_history.json", history)
    write_json(
        run / "probes.json", {"region accuracy": {"pretrained": [[0.5, 0.7]], "untrained": [[0.2]], "chance": 0.1}}
    )
    shown = read_report([run])
    charts = charts_of(shown)
    assert charts["probe region accuracy"]["lines"][0]["points"] == [[0, 0, 0.2], [30, 3, 0.6]]
    assert "probe sha" not in charts
    (section,) = (one for one in shown["sections"] if one["title"] == "Probes of frozen features")
    row = ["run", "region accuracy", "0.600 (0.500 to 0.700)", "0.200 (0.200 to 0.200)", "0.100"]
    assert section["tables"][0]["rows"] == [row]


def test_quality_of_masks_is_shown_by_generation_or_by_epoch(tmp_path):
    by_generation, by_epoch = make_run(tmp_path / "cyborgs"), make_run(tmp_path / "r2o")
    entry = {"boundary_f": 0.1, "ari": None, "labels_per_image": 4.5, "images": 8}
    names = {"gen_0002": 0.4, "fh_s200": 0.2, "gen_0001": 0.3}
    write_json(by_generation / "mask_quality.json", {name: entry | {"best_iou": iou} for name, iou in names.items()})
    write_json(by_epoch / "mask_quality.json", {"slic40_64": entry, "epoch_0000": entry | {"best_iou": 0.5}})
    charts = charts_of(read_report([by_generation, by_epoch]))
    (line,) = charts["masks gen best_iou"]["lines"]
    assert (
        line["points"] == [[0, 0, 0.2], [1, 1, 0.3], [2, 2, 0.4]] and line["names"][0] == "fh_s200" and line["run"] == 0
    )
    (line,) = charts["masks epoch best_iou"]["lines"]
    assert line["points"] == [[-1, -1, None], [0, 0, 0.5]] and line["names"][0] == "slic40_64" and line["run"] == 1
    assert charts["masks gen ari"]["lines"][0]["points"][0][-1] is None


def test_runs_are_called_by_what_tells_them_apart(tmp_path):
    folders = [tmp_path / part for part in ("a/seed0/pretrain", "b/seed0/pretrain", "b/seed1/pretrain")]
    assert short_names(folders) == [str(folder.relative_to(tmp_path)) for folder in folders]
    assert short_names(folders[:1]) == ["pretrain"]


def test_a_stage_is_called_by_its_run_and_its_number(tmp_path):
    assert short_names([tmp_path / "orl" / "stage1"]) == ["orl/stage1"]
    folders = [tmp_path / part for part in ("orl/demo/stage1", "orl/demo/stage3", "r2o/demo")]
    assert short_names(folders) == ["orl/demo/stage1", "orl/demo/stage3", "r2o/demo"]


def test_a_folder_that_is_named_twice_is_one(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", epochs=1)
    evaluation = tmp_path / "knn" / "demo" / "weights"
    evaluation.mkdir(parents=True)
    write_json(evaluation / "results.json", {})
    (tmp_path / "link").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    folders = [Path("run"), run, Path("link"), Path("knn"), evaluation, evaluation / "results.json"]
    assert sort_folders(folders) == ([Path("run")], [Path("knn/demo/weights")])
    assert short_names([Path("run"), run]) == ["run", "run"]
