import pytest
import torch

import r2o_main
from models.backbone import make_trunk
from tools.make_demo_data import DemoData, make_demo_data
from tools.probe import main, probe_run
from utils.errors import UserError

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
    code = r2o_main.main(
        ["--cfg", "r2o/demo", "--out", str(folder / "run"), "--set", f"data.image_dir={folder / 'data'}", *SMALL]
    )
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
