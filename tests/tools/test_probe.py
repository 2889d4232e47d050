import shutil

import pytest
import torch

import r2o_main
from models.backbone import make_trunk
from tools.make_demo_data import DemoData, make_demo_data
from tools.probe import main, probe_history, probe_run
from utils.errors import UserError
from utils.files import read_json, write_json

SMALL = [
    "model.backbone.width=8",
    "model.projection.hidden_dim=8",
    "model.projection.output_dim=4",
    "model.predictor.hidden_dim=8",
    "model.predictor.output_dim=4",
    "data.resize_size=32",
    "data.superpixel_size=32",
    "data.data_workers=0",
    "data.train_batch_size=8",
    "log.num_pictures=0",
    "optimizer.total_epochs=1",
    "optimizer.warmup_epochs=0",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty-four scenes and a run of one epoch on them."""
    folder = tmp_path_factory.mktemp("probe")
    make_demo_data(folder / "data", DemoData(num_train=24, num_val=8, size=48, seed=0), workers=1)
    # The checkpoints lie where the config says.
    elsewhere = f"checkpoint.ckpt_path={folder}/checkpoints/{{}}/{{}}_{{}}_{{}}.pth"
    arguments = ["--cfg", "r2o/demo", "--out", str(folder / "run"), "--set", f"data.image_dir={folder / 'data'}"]
    code = r2o_main.main([*arguments, elsewhere, *SMALL])
    assert code == 0
    return folder


def test_a_run_is_compared_with_the_weights_it_began_with(folder):
    comparisons = probe_run(folder / "run", folder / "data")
    assert comparisons.keys() == {"region accuracy", "segmentation mIoU"}
    assert all(len(row.pretrained.values) == len(row.untrained.values) == 5 for row in comparisons.values())


def test_weights_that_never_moved_gain_nothing(folder, tmp_path):
    torch.manual_seed(0)
    (tmp_path / "config.yaml").write_text((folder / "run" / "config.yaml").read_text())
    trunk = make_trunk("resnet_tiny", width=8, strides=(2, 1, 2, 2, 2))
    torch.save(trunk.state_dict(), tmp_path / "backbone.pth")
    comparisons = probe_run(tmp_path, folder / "data")
    assert [row.gain for row in comparisons.values()] == [0, 0]
    assert not any(row.learned for row in comparisons.values())


def test_an_unfinished_run_is_refused(tmp_path, folder, capsys):
    with pytest.raises(UserError, match="no backbone.pth"):
        probe_run(tmp_path, folder / "data")
    assert main([str(tmp_path), "--data_dir", str(folder / "data")]) == 2
    assert "no backbone.pth" in capsys.readouterr().err


@pytest.fixture
def run(folder, tmp_path):
    """A copy of the run, which has not been finished."""
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "run" / "backbone.pth").unlink()
    return tmp_path / "run"


def test_the_history_goes_from_the_untrained_to_the_trained_backbone(folder, run):
    history = probe_history(run, folder / "data", limit=None)
    assert [(row["step"], row["epoch"]) for row in history] == [(0, 0), (3, 1)]
    assert read_json(run / "probe_history.json") == history
    comparisons = probe_run(folder / "run", folder / "data")
    for name, row in comparisons.items():
        # Fitted to the first of the five parts.
        assert [entry[name] for entry in history] == [row.untrained.values[0], row.pretrained.values[0]]
    assert history[0]["feature spread"] != history[1]["feature spread"]
    assert all(0 < row["feature spread"] < 1 for row in history)


def test_what_the_history_knows_is_not_probed_again_but_for_other_images(folder, run, capsys):
    first = probe_history(run, folder / "data", limit=16)
    marked = [first[0] | {"region accuracy": 7.0}, first[1] | {"made_of": "other weights"}]
    write_json(run / "probe_history.json", marked)
    again = probe_history(run, folder / "data", limit=16)
    assert again == [marked[0], first[1]]
    assert main([str(run), "--data_dir", str(folder / "data"), "--history", "--limit", "12"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in printed[1:]] == [["0", "0"], ["3", "1"]]
    other = read_json(run / "probe_history.json")
    assert other[0]["region accuracy"] <= 1 and other[0]["made_of"] != first[0]["made_of"]


def test_a_folder_without_a_run_has_no_history(tmp_path, folder, capsys):
    assert main([str(tmp_path), "--data_dir", str(folder / "data"), "--history"]) == 2
    assert "no config.yaml" in capsys.readouterr().err
