import json

import pytest
import torch
import yaml

from evaluation import classification
from tests.evaluation.two_evaluations import metrics_of_two
from tests.mains.runs import assert_same, newest

TINY = {
    "model": {"backbone": {"type": "resnet_tiny", "width": 4}, "standardise": True},
    "data": {"resize_size": 32, "data_workers": 0, "train_batch_size": 16, "val_batch_size": 8},
    "optimizer": {"base_lr": 0.1, "total_epochs": 3, "milestones": [2]},
}


@pytest.fixture
def config(layouts, tmp_path):
    """The path of a tiny config on the scenes' objects."""
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(TINY | {"data": TINY["data"] | {"dir": str(layouts / "imagenet")}}))
    return str(path)


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_a_linear_classifier_is_trained_and_tested(config, tmp_path, capsys):
    assert classification.main(["--cfg", config, "--out", str(tmp_path / "run")]) == 0
    found = results(tmp_path / "run")
    assert found["program"] == "classification" and found["protocol"] == "own"
    assert 0 <= found["metrics"]["top1"] <= found["metrics"]["top5"] <= 1
    assert found["config"]["optimizer"]["base_lr"] == 0.1
    assert "top1" in capsys.readouterr().out


def test_a_stopped_evaluation_goes_on_to_the_same_parameters(config, tmp_path):
    for out, first in (("whole", []), ("cut", ["--max_steps", "4"])):
        assert classification.main(["--cfg", config, "--out", str(tmp_path / out), *first]) == 0
    assert results(tmp_path / "cut")["max_steps"] == 4
    assert classification.main(["--cfg", config, "--out", str(tmp_path / "cut"), "--resume", "auto"]) == 0
    assert_same(newest(tmp_path / "whole"), newest(tmp_path / "cut"))
    assert results(tmp_path / "whole")["metrics"] == results(tmp_path / "cut")["metrics"]


def test_two_processes_find_what_one_finds(config, tmp_path):
    classification.main(["--cfg", config, "--out", str(tmp_path / "one")])
    two = metrics_of_two(
        tmp_path, "classification", "--cfg", config, "--out", str(tmp_path / "two"), "--set", "data.train_batch_size=8"
    )
    assert two == pytest.approx(results(tmp_path / "one")["metrics"], abs=1e-9)


def test_the_classifiers_rate_may_be_a_multiple_of_the_backbones(config, tmp_path):
    arguments = ["--cfg", config, "--out", str(tmp_path / "run"), "--max_steps", "1"]
    assert classification.main([*arguments, "--set", "model.frozen=false", "optimizer.head_lr_scale=10"]) == 0
    groups = newest(tmp_path / "run")["optimizer"]["param_groups"]
    assert [group["lr_scale"] for group in groups] == [1.0, 10.0]
    assert groups[1]["lr"] == pytest.approx(10 * groups[0]["lr"])
    assert groups[0]["lr"] == pytest.approx(0.1 * 16 / 256)


def test_the_weights_of_a_run_are_judged_with_the_runs_own_backbone(config, layouts, tmp_path):
    from engine.checkpoint import export_backbone
    from models.backbone import make_trunk

    settings = {"type": "resnet_tiny", "width": 6, "blocks": [1, 1, 1, 1], "strides": [1, 1, 2, 2, 2]}
    run, trunk = tmp_path / "pretrained", make_trunk(**settings)
    run.mkdir()
    export_backbone(trunk, run / "backbone.pth")
    (run / "config.yaml").write_text(yaml.safe_dump({"model": {"backbone": settings}}))
    arguments = ["--cfg", config, "--out", str(tmp_path / "run"), "--max_steps", "1", "--weights", str(run)]
    assert classification.main(arguments) == 0
    state = newest(tmp_path / "run")["method"]
    assert torch.equal(state["backbone.conv1.weight"], trunk.conv1.weight)
    assert results(tmp_path / "run")["weights_sha256"] is not None


@pytest.mark.parametrize(
    ("weights", "message"),
    [("nowhere.pth", "nowhere.pth"), (".", "no backbone.pth and config.yaml there")],
)
def test_weights_that_are_not_there_are_refused(config, tmp_path, monkeypatch, capsys, weights, message):
    monkeypatch.chdir(tmp_path)
    assert classification.main(["--cfg", config, "--out", str(tmp_path / "run"), "--weights", weights]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_weights_that_do_not_fit_are_refused(config, tmp_path, capsys):
    from engine.checkpoint import export_backbone
    from models.backbone import make_trunk

    export_backbone(make_trunk("resnet_tiny", width=6), tmp_path / "wide.pth")
    weights = str(tmp_path / "wide.pth")
    assert classification.main(["--cfg", config, "--out", str(tmp_path / "run"), "--weights", weights]) == 2
    assert "wide.pth: does not fit model.backbone" in capsys.readouterr().err


def test_an_unreadable_test_image_is_refused(config, tmp_path, capsys, layouts):
    import shutil

    shutil.copytree(layouts / "imagenet", tmp_path / "data")
    victim = sorted((tmp_path / "data" / "val").glob("*/*.jpg"))[3]
    victim.write_bytes(victim.read_bytes()[:200])
    arguments = ["--cfg", config, "--out", str(tmp_path / "run"), "--max_steps", "1"]
    assert classification.main([*arguments, "--set", f"data.dir={tmp_path / 'data'}"]) == 3
    assert victim.name in capsys.readouterr().err
    assert not (tmp_path / "run" / "results.json").exists()
