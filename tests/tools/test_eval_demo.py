import json

import pytest
import yaml

from tools import eval_demo
from utils.config import CONFIGS


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A finished demo in an empty folder; the commands that are run, each of which leaves results unless it fails."""
    run = tmp_path / "runs" / "demo" / "detconb"
    run.mkdir(parents=True)
    (run / "backbone.pth").write_bytes(b"weights")
    backbone = {
        "type": "resnet_tiny",
        "width": 6,
        "blocks": [1, 1, 1, 1],
        "strides": [2, 1, 2, 2, 1],
        "pretrained": False,
    }
    (run / "config.yaml").write_text(yaml.safe_dump({"model": {"backbone": backbone}}))
    seen = []

    def run_python(*command):
        seen.append(command)
        if "fails" in seen:
            return 3
        folder = tmp_path / command[command.index("--out") + 1]
        folder.mkdir(parents=True)
        weights = command[command.index("--weights") + 1] if "--weights" in command else None
        entry = {"program": command[1], "protocol": command[3], "weights": weights, "metrics": {"score": 0.5}}
        (folder / "results.json").write_text(json.dumps(entry))
        return 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(eval_demo, "run_python", run_python)
    monkeypatch.setattr(eval_demo, "make_eval_data", lambda source, folder: True)
    return seen


def test_every_protocol_has_a_config():
    for program, protocols in eval_demo.PROTOCOLS.items():
        for protocol in protocols:
            assert (CONFIGS / "evaluation" / program / f"{protocol}.yaml").is_file()


def test_both_backbones_are_evaluated_and_the_untrained_one_has_the_runs_form(commands, capsys):
    assert eval_demo.main(["--only", "knn"]) == 0
    untrained, pretrained = commands
    assert "--weights" not in untrained and "model.backbone.width=6" in untrained
    assert pretrained[pretrained.index("--weights") + 1] == "runs/demo/detconb"
    header = capsys.readouterr().out.splitlines()[3]
    assert header.split() == ["protocol", "metric", "untrained", "runs/demo/detconb"]


def test_what_is_done_is_not_done_again(commands):
    assert eval_demo.main(["--only", "knn", "svm"]) == eval_demo.main(["--only", "knn", "svm"]) == 0
    assert len(commands) == 4


def test_what_was_done_with_other_weights_is_done_again(commands, tmp_path):
    assert eval_demo.main(["--only", "knn"]) == 0
    folder = tmp_path / "runs" / "eval-demo" / "detconb" / "knn" / "demo" / "pretrained"
    (folder / "weights.json").write_text(json.dumps({"weights": "runs/demo/detconb", "sha256": "another"}))
    assert eval_demo.main(["--only", "knn"]) == 0
    assert len(commands) == 3 and not (folder / "weights.json").exists()


def test_an_evaluation_that_fails_ends_all_with_its_code(commands):
    commands.append("fails")
    assert eval_demo.main([]) == 3
    assert len(commands) == 2


def test_a_missing_demo_is_made_first(commands, tmp_path):
    (tmp_path / "runs" / "demo" / "detconb" / "backbone.pth").unlink()
    commands.append("fails")
    assert eval_demo.main([]) == 3
    assert commands[1] == ("-m", "tools.demo", "--method", "detconb")
