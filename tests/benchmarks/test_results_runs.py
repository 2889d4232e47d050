"""The learning benchmark: what it runs, and that a stopped one goes on."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
import yaml

from benchmarks.results import __main__ as program
from benchmarks.results.execution import SECONDS, Execution
from benchmarks.results.manifest import SIZES, SUPERVISED, UNTRAINED, Manifest, chosen_runs, read_manifest
from benchmarks.results.measure import clusters, curve, epoch_of, images_seen
from benchmarks.results.steps import RESULT, Step, all_settings, hold_basis, is_pretrained, steps_of
from tests.paths import ROOT
from tools.config_table import schema_of
from utils.config import find_config, load_config
from utils.errors import PREEMPTED, UserError
from utils.files import read_json


@pytest.fixture(autouse=True)
def signals_stay_as_they_are():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


EVERY_SIZE = pytest.mark.parametrize("size", SIZES)


@EVERY_SIZE
def test_the_config_of_every_run_is_one_that_its_program_takes(size):
    manifest = read_manifest(size)
    for entry in manifest.runs.values():
        if entry.program == UNTRAINED:
            continue
        overrides = [
            f"{key}={yaml.safe_dump(value, default_flow_style=True).removesuffix('...' + chr(10))}"
            for key, value in all_settings(manifest, entry, 3).items()
        ]
        folder = entry.program.replace(SUPERVISED, "evaluation/")
        config, warnings = load_config(
            find_config(entry.cfg, method=folder), schema_of(entry.program), overrides=overrides
        )
        assert warnings == []
        assert config.seed == 3 and config.model.backbone.strides == manifest.backbone["strides"]
        if is_pretrained(entry):
            schedules = dict.fromkeys(("momentum", "clusters") if entry.program == "r2o" else ("momentum",), None)
            with torch.device("meta"):
                importlib.import_module(f"{entry.program}_main").make_method(config, **schedules)


@EVERY_SIZE
def test_methods_share_images_epochs_backbone_and_augmentation(size):
    manifest = read_manifest(size)
    shared = {}
    for name, entry in manifest.runs.items():
        if not is_pretrained(entry) or entry.group == "variation":
            continue
        settings = all_settings(manifest, entry, 0)
        # Of ORL those of its last stage, which begins anew.
        epochs = settings["optimizer.total_epochs"]
        views = {key: settings[f"data.{key}"] for key in ("min_crop", "grey_probability", "photometric", "resize_size")}
        own = {
            "epochs": epochs,
            "batch": settings["data.train_batch_size"],
            "lr": settings["optimizer.base_lr"],
            **views,
        }
        shared.setdefault(str(own), []).append(name)
    assert len(shared) == 1, shared


@EVERY_SIZE
def test_what_the_page_compares_is_run(size):
    assert {"untrained", "byol", "detconb_fh", "r2o"} <= read_manifest(size).runs.keys()


def manifest_of(**runs) -> Manifest:
    entry = {"title": "T", "group": "object", "program": "r2o"}
    return Manifest(
        at_once=2, threads=1, size=32, backbone={"type": "resnet_tiny"}, runs={k: entry | v for k, v in runs.items()}
    )


def test_first_seeds_come_first():
    manifest = manifest_of(one={"seeds": [0, 1]}, two={})
    assert chosen_runs(manifest, None) == [("one", 0), ("two", 0), ("one", 1)]
    assert chosen_runs(manifest, ["two"]) == [("two", 0)]


def test_an_unknown_run_is_refused_by_name():
    with pytest.raises(UserError, match="--only three: no such run; there are one"):
        chosen_runs(manifest_of(one={}), ["one", "three"])


def test_an_unknown_size_is_refused():
    with pytest.raises(UserError, match="--size tpu: there is no .*tpu.yaml"):
        read_manifest("tpu")
    with pytest.raises(UserError, match="mine/cpu.yaml: its runs would mix with those of cpu"):
        read_manifest("mine/cpu.yaml")


def test_settings_are_a_runs_own_over_those_it_is_like():
    manifest = manifest_of(
        one={"settings": {"model.region_level": "c5", "clustering.max_iter": 3}},
        two={"like": "one", "settings": {"clustering.max_iter": 9}},
    )
    assert manifest.settings_of(manifest.runs["two"]) == {"model.region_level": "c5", "clustering.max_iter": 9}
    with pytest.raises(ValueError, match="runs.one.like: nobody is no run"):
        manifest_of(one={"like": "nobody"})
    with pytest.raises(ValueError, match="runs.three.like: two is like another one itself"):
        manifest_of(one={}, two={"like": "one"}, three={"like": "two"})


def test_orls_backbone_is_its_last_stages(tmp_path):
    byol = {"program": "orl", "settings": {"model.variant": "byol"}}
    manifest = manifest_of(orl={"program": "orl"}, byol=byol, other={"program": "orl", "like": "byol"})
    for name, folder in (("orl", "pretrain/stage3"), ("byol", "pretrain"), ("other", "pretrain")):
        step = steps_of("cpu", manifest, name, 0, tmp_path)[0]
        assert step.leaves == tmp_path / folder / "backbone.pth"
        assert ("--stage" in step.arguments) == (name == "orl")


def test_a_folder_that_was_made_by_other_settings_is_refused(tmp_path):
    for settings in ({"data.min_crop": 0.2}, {"data.min_crop": 0.2}):
        hold_basis(manifest_of(one={"settings": settings}), "one", 0, tmp_path)
    with pytest.raises(UserError, match=r"made by other settings \(settings.data.min_crop: 0.2 -> 0.3\): remove it"):
        hold_basis(manifest_of(one={"settings": {"data.min_crop": 0.3}}), "one", 0, tmp_path)


def test_seconds_add_up_over_pieces_and_failures_do_not_count(tmp_path):
    execution = Execution(threads=1, jobs=3)
    for _ in range(2):
        code, _ = execution.run(("-c", "import time; time.sleep(0.2)"), log=tmp_path / "nap.txt", folder=tmp_path)
        assert code == 0
    assert execution.run(("-c", "print('so'); raise SystemExit(5)"), log=tmp_path / "bad.txt", folder=tmp_path)[0] == 5
    noted = read_json(tmp_path / SECONDS)
    assert noted.keys() == {"nap"} and noted["nap"]["seconds"] > 0.4 and noted["nap"]["at_once"] == 3
    assert (tmp_path / "bad.txt").read_text() == "so\n"


def test_when_time_is_up_programs_are_asked_to_save_themselves_and_none_is_started(tmp_path):
    execution = Execution(threads=1, minutes=2 / 60)
    saves = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); print('up', flush=True); time.sleep(60)"
    )
    code, seconds = execution.run(("-c", saves), log=tmp_path / "long.txt", folder=tmp_path)
    assert code == PREEMPTED and seconds < 30 and execution.stopped
    assert execution.run(("-c", "open('x', 'w')"), log=tmp_path / "next.txt")[0] == PREEMPTED
    assert "next" not in (read_json(tmp_path / SECONDS))


def test_what_does_not_save_itself_is_killed_some_time_after_it_was_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.results.execution._GRACE", 1)
    execution = Execution(threads=1, minutes=2 / 60)
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    code, seconds = execution.run(("-c", deaf), log=tmp_path / "deaf.txt", folder=tmp_path)
    assert code == PREEMPTED and 2.5 < seconds < 20
    # What it took counts, as the next piece goes on from its last checkpoint.
    assert read_json(tmp_path / SECONDS)["deaf"]["seconds"] > 2.5


def test_a_failure_of_what_all_need_ends_the_benchmark(tmp_path):
    with pytest.raises(UserError, match="ended with exit code 4: see .*all.txt"):
        Execution(threads=1).run(("-c", "raise SystemExit(4)"), log=tmp_path / "all.txt", is_parallel=False)


def test_what_is_done_is_not_done_again_and_a_failed_run_does_not_stop_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "RUNS", tmp_path)
    manifest = manifest_of(good={}, bad={}, done={})
    (tmp_path / "cpu/done/seed0").mkdir(parents=True)
    (tmp_path / "cpu/done/seed0" / RESULT).write_text("{}")

    def steps(size, manifest, name, seed, folder):
        leaves = folder / RESULT
        script = f"open({str(leaves)!r}, 'w')" if name == "good" else "raise SystemExit(1)"
        return [Step("pretrain", ("-c", script), leaves)]

    monkeypatch.setattr(program, "steps_of", steps)
    runs = chosen_runs(manifest, None)
    failed = program.run_all("cpu", manifest, runs, Execution(threads=1), jobs=2)
    assert len(failed) == 1 and failed[0].startswith("bad seed 0, see ")
    assert (tmp_path / "cpu/good/seed0" / RESULT).is_file()


def test_images_are_counted_by_steps(tmp_path):
    assert images_seen(tmp_path) == 0
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 30}\n')
    (tmp_path / "config.yaml").write_text("data: {train_batch_size: 8}\noptimizer: {accumulate_steps: 2}\n")
    assert images_seen(tmp_path) == 480


def test_epochs_of_masks():
    assert [epoch_of(name, 4) for name in ("epoch_0006", "gen_0002", "fh_s200_m120", "grid3x3")] == [6, 8, 0, 0]


def test_curves_are_thinned_and_leave_gaps_out():
    logged = [{"step": step, "total_loss": None if step == 4 else step / 2} for step in range(1, 251)]
    points = curve(logged, "total_loss")
    assert len(points) <= 100 and points[0] == (1, 0.5) and all(loss == step / 2 for step, loss in points)
    assert clusters([{"epoch": 1.0, "clusters": 9999}, {"epoch": 2.0, "clusters": 7}]) == [(1.0, None), (2.0, 7)]


@pytest.mark.slow
def test_a_small_benchmark_stops_goes_on_and_makes_its_page(tmp_path):
    """Two methods on a few scenes, by the command as it is."""
    settings = {"optimizer.total_epochs": 8, "optimizer.warmup_epochs": 1, "data.train_batch_size": 4}
    settings |= {"data.data_workers": 0, "checkpoint.save_epoch": 1, "log.log_step": 2, "log.num_pictures": 0}
    r2o = {"model.region_level": "c5", "clustering.scheduler": {"type": "cosine", "epochs": [0, 8], "values": [8, 4]}}
    runs = {
        "untrained": {"title": "Untrained", "group": "reference", "program": "untrained", "seeds": [0, 1]},
        "byol": {"title": "BYOL", "group": "image", "program": "orl", "settings": {"model.variant": "byol"}},
        "r2o": {"title": "R2O", "group": "object", "program": "r2o", "settings": r2o},
    }
    evaluations = [{"program": "knn", "settings": {"knn.counts": [5]}, "metrics": {"top-1, k=5": "k-NN top-1"}}]
    small = {
        "at_once": 2,
        "threads": 1,
        "size": 32,
        "backbone": {"type": "resnet_tiny", "width": 8, "blocks": [1, 1, 1, 1], "strides": [2, 1, 2, 2, 1]},
        "common": settings,
        "scenes": {"num_train": 64, "num_val": 24},
        "mask_types": ["slic50_96"],
        "probes": {"history_limit": 40, "region_limit": 20},
        "evaluations": evaluations,
        "runs": runs,
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    command = [sys.executable, "-m", "benchmarks.results", "--size", "small.yaml", "--no_page"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command, cwd=tmp_path, env=environment)
    results = tmp_path / "runs/results/small"
    # Stopped when something has been trained, and has a checkpoint to go on from.
    deadline = time.monotonic() + 240
    while (
        not list(results.glob("*/seed0/pretrain/checkpoints/*.pth"))
        and time.monotonic() < deadline
        and first.poll() is None
    ):
        threading.Event().wait(0.2)
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=120) == PREEMPTED
    assert not list(results.glob("*/*/pretrain/backbone.pth")) or not list(results.glob("r2o/*/result.json"))
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=400)
    found = {path.parent.parent.name: read_json(path) for path in results.glob("*/seed0/result.json")}
    assert found.keys() == runs.keys()
    for name, result in found.items():
        assert {"linear segmentation mIoU", "region accuracy", "k-NN top-1"} <= result["metrics"].keys()
        assert result["images"] == (0 if name == "untrained" else 8 * 64)
    assert any("resuming from" in path.read_text() for path in results.glob("*/seed0/pretrain.txt"))
    # The checkpoint of the moment that it was stopped at may be among them.
    assert {row["epoch"] for row in found["byol"]["history"]} == set(range(9))
    assert [row["epoch"] for row in found["r2o"]["regions"] if row["masks"].startswith("epoch")] == list(range(9))
    assert found["untrained"]["metrics"] != read_json(results / "untrained/seed1/result.json")["metrics"]
