import json

import pytest
import torch
import yaml

from engine.checkpoint import export_backbone
from evaluation import classification
from evaluation.backbones import load_backbone
from evaluation.settings import Network
from models.backbone import make_trunk
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
    assert 0 <= found["metrics"]["top-1"] <= found["metrics"]["top-5"] <= 1
    assert found["config"]["optimizer"]["base_lr"] == 0.1
    assert "top-1" in capsys.readouterr().out


def test_a_frozen_backbone_ends_as_it_began_statistics_and_all(config, tmp_path):
    assert classification.main(["--cfg", config, "--out", str(tmp_path / "run")]) == 0
    torch.manual_seed(0)
    begun = make_trunk("resnet_tiny", width=4).state_dict()
    ended = newest(tmp_path / "run")["method"]
    for name, value in begun.items():
        assert torch.equal(ended[f"backbone.{name}"], value), name
    assert ended["norm.num_batches_tracked"] > 0


def test_a_backbone_that_is_trained_along_is_so_with_statistics_of_its_batches(config, tmp_path):
    arguments = ["--cfg", config, "--out", str(tmp_path / "run"), "--max_steps", "2"]
    assert classification.main([*arguments, "--set", "model.frozen=false", "model.recalibrate_norm=true"]) == 0
    # 2 steps beyond the batches of the calibration.
    assert newest(tmp_path / "run")["method"]["backbone.bn1.num_batches_tracked"] == 3


def test_a_backbone_that_was_trained_from_scratch_is_left_to_be_judged(config, tmp_path):
    arguments = ["--cfg", config, "--set", "model.frozen=false"]
    assert classification.main([*arguments, "--out", str(tmp_path / "some"), "--max_steps", "2"]) == 0
    assert not (tmp_path / "some/backbone.pth").exists()
    assert classification.main([*arguments, "--out", str(tmp_path / "all")]) == 0
    ended = newest(tmp_path / "all")["method"]
    judged = load_backbone(Network(weights=str(tmp_path / "all")), seed=1).state_dict()
    assert all(torch.equal(ended[f"backbone.{name}"], value) for name, value in judged.items())
    # A run's own strides stand in the run's config, not in this one's.
    assert classification.main([*arguments, "--out", str(tmp_path / "more"), "--weights", str(tmp_path / "all")]) == 0
    assert not (tmp_path / "more/backbone.pth").exists()


def test_steps_are_not_rescaled_where_the_length_is_in_steps(config, tmp_path, caplog):
    steps = ["--set", "optimizer.total_epochs=", "optimizer.total_steps=8", "optimizer.milestones=[6]"]
    arguments = ["--cfg", config, "--out", str(tmp_path / "run")]
    assert classification.main([*arguments, *steps, "--max_steps", "4"]) == 0
    assert classification.main([*arguments, *steps, "data.train_batch_size=8", "--resume", "auto"]) == 0
    assert newest(tmp_path / "run")["step"] == 8 and results(tmp_path / "run")["steps"] == [8, 8]
    assert "images come in another order" in caplog.text
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows][-1] == 8 and rows[-1]["learning_rate"] == pytest.approx(0.1 * 8 / 256 / 10)


def test_weights_that_changed_under_their_name_are_refused(config, tmp_path, capsys):
    weights = tmp_path / "20261122_003000.pth"
    export_backbone(make_trunk("resnet_tiny", width=4), weights)
    arguments = ["--cfg", config, "--out", str(tmp_path / "run"), "--weights", str(weights)]
    assert classification.main([*arguments, "--max_steps", "1"]) == 0
    torch.manual_seed(1)
    export_backbone(make_trunk("resnet_tiny", width=4), weights)
    assert classification.main([*arguments, "--resume", "auto"]) == 2
    assert "began with other weights than" in capsys.readouterr().err


def test_a_folder_whose_name_is_a_number_to_yaml_is_a_name(config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert classification.main(["--cfg", config, "--out", "run", "--weights", "20261122_003000"]) == 2
    assert "20261122_003000" in capsys.readouterr().err


def test_the_target_of_no_weights_is_refused(config, tmp_path, capsys):
    arguments = ["--cfg", config, "--out", str(tmp_path / "run"), "--set", "model.network=target"]
    assert classification.main(arguments) == 2
    assert "model.network: target, but there are no model.weights" in capsys.readouterr().err


def test_another_network_than_the_configs_is_named(config, tmp_path, capsys):
    export_backbone(make_trunk("resnet18"), tmp_path / "large.pth")
    arguments = ["--cfg", config, "--out", str(tmp_path / "run"), "--weights", str(tmp_path / "large.pth")]
    assert classification.main(arguments) == 2
    assert "holds a resnet18, not a resnet_tiny; set model.backbone.type=resnet18" in capsys.readouterr().err


def test_a_stopped_evaluation_goes_on_to_the_same_parameters(config, tmp_path):
    for out, first in (("whole", []), ("cut", ["--max_steps", "4"])):
        assert classification.main(["--cfg", config, "--out", str(tmp_path / out), *first]) == 0
    # What is half trained is no result.
    assert [path.name for path in (tmp_path / "cut").glob("results*")] == ["results_4.json"]
    assert classification.main(["--cfg", config, "--out", str(tmp_path / "cut"), "--resume", "auto"]) == 0
    assert_same(newest(tmp_path / "whole"), newest(tmp_path / "cut"))
    assert results(tmp_path / "whole")["metrics"] == results(tmp_path / "cut")["metrics"]


def test_the_classifiers_rate_may_be_a_multiple_of_the_backbones(config, tmp_path):
    arguments = ["--cfg", config, "--out", str(tmp_path / "run"), "--max_steps", "1"]
    assert classification.main([*arguments, "--set", "model.frozen=false", "optimizer.head_lr_scale=10"]) == 0
    groups = newest(tmp_path / "run")["optimizer"]["param_groups"]
    assert [group["lr_scale"] for group in groups] == [1.0, 10.0]
    assert groups[1]["lr"] == pytest.approx(10 * groups[0]["lr"])
    assert groups[0]["lr"] == pytest.approx(0.1 * 16 / 256)


def test_the_weights_of_a_run_are_judged_with_the_runs_own_backbone(config, layouts, tmp_path):
    settings = {"type": "resnet_tiny", "width": 6, "blocks": [1, 1, 1, 1], "strides": [1, 1, 2, 2, 2]}
    # As ORL's runs are: the last stage has a folder of its own.
    run, trunk = tmp_path / "pretrained" / "stage3", make_trunk(**settings)
    run.mkdir(parents=True)
    export_backbone(trunk, run / "backbone.pth")
    (run / "config.yaml").write_text(yaml.safe_dump({"model": {"backbone": settings}}))
    arguments = ["--cfg", config, "--out", str(tmp_path / "run"), "--weights", str(run.parent)]
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
