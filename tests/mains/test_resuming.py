"""What a run says when it goes on under another config, other libraries or from another program's file."""

from pathlib import Path

import pytest
import torch

import r2o_main
from tests.mains.runs import make_pictures, newest, write_own_config
from tests.mains.test_r2o import CONFIG


@pytest.fixture
def folder(tmp_path) -> Path:
    """With a run stopped after two steps."""
    make_pictures(tmp_path)
    assert go(tmp_path, "--max_steps", "2") == 0
    return tmp_path


def go(folder: Path, *arguments: str, **sections: dict) -> int:
    write_own_config(folder, CONFIG, **sections)
    return r2o_main.main(["--cfg", str(folder / "own.yaml"), "--out", str(folder / "run"), *arguments])


def test_keys_that_differ_are_named_and_hold(folder, capsys):
    optimizer = CONFIG["optimizer"] | {"base_lr": 0.1}
    assert go(folder, "--resume", "auto", "--max_steps", "3", optimizer=optimizer) == 0
    assert "the config has changed" in (said := capsys.readouterr().err) and "optimizer.base_lr: 0.3 -> 0.1" in said
    assert newest(folder / "run")["config"]["optimizer"]["base_lr"] == 0.1


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        (
            {"model": CONFIG["model"] | {"backbone": {"type": "resnet_tiny", "width": 8}}},
            "model.backbone.width: 4 -> 8",
        ),
        (
            {"model": CONFIG["model"] | {"backbone": {"type": "resnet18"}}},
            "model.backbone.type: resnet_tiny -> resnet18",
        ),
        ({"optimizer": CONFIG["optimizer"] | {"type": "adamw"}}, "optimizer.type: lars -> adamw"),
    ],
)
def test_keys_that_the_checkpoint_does_not_fit_are_refused_and_nothing_is_touched(folder, capsys, sections, named):
    before = {path: path.read_bytes() for path in (folder / "run").rglob("*.pth")}
    assert go(folder, "--resume", "auto", **sections) == 2
    said = capsys.readouterr().err
    assert named in said and "Put the old values back" in said and ".pth" in said
    assert before == {path: path.read_bytes() for path in (folder / "run").rglob("*.pth")}
    assert go(folder, "--resume", "auto", "--max_steps", "3") == 0


def test_other_libraries_and_other_code_are_named(folder, capsys):
    (path,) = (folder / "run" / "checkpoints").glob("*.pth")
    state = torch.load(path, weights_only=True)
    assert {"code", "torch", "numpy", "python"} <= state["versions"].keys()
    state["versions"] |= {"torch": "1.2.3", "code": "0123456789abcdef"}
    path.with_name(path.name + ".json").unlink()
    torch.save(state, path)
    assert go(folder, "--resume", "auto", "--max_steps", "3") == 0
    said = capsys.readouterr().err
    assert "not the versions" in said and "1.2.3" in said and "0123456789abcdef" in said
