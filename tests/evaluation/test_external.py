"""The configs for MMSegmentation, run by the real package where it is installed (how: evaluation/mmseg/README.md)."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from data.cityscapes import TRAIN_IDS
from evaluation.convert import main as convert
from evaluation.mmseg.train import allow_checkpoints, load_config, main, refusing, replace_compiled_operations
from tests.paths import ROOT

MMSEG = sorted((ROOT / "evaluation/mmseg").glob("fcn_*.py"))


ABSENT = [name for name in ("mmengine", "mmcv", "mmseg") if importlib.util.find_spec(name) is None]
needs_mmseg = pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)}")


def name_of(path: Path) -> str:
    return path.stem


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """A ResNet-50 whose every number is random, BatchNorm's statistics too."""
    generator = torch.Generator().manual_seed(0)
    network = torchvision.models.resnet50().eval()
    for key, value in network.state_dict().items():
        if value.dim() == 1:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif key.endswith("num_batches_tracked"):
            value.fill_(7)
    return network


@pytest.fixture(scope="module")
def trunk(network) -> dict[str, torch.Tensor]:
    return {key: value for key, value in network.state_dict().items() if not key.startswith("fc.")}


@pytest.fixture(scope="module")
def converted(trunk, tmp_path_factory):
    """The backbone as `evaluation.convert` writes it for MMSegmentation."""
    folder = tmp_path_factory.mktemp("converted")
    torch.save(trunk, folder / "backbone.pth")
    assert convert(["--to", "mmseg", str(folder / "backbone.pth"), str(folder / "mmseg.pth")]) == 0
    return folder / "mmseg.pth"


def test_a_missing_operation_says_so_when_it_is_called():
    with pytest.raises(RuntimeError, match="nms.*mmcv-lite"):
        refusing("nms")(1)
    with pytest.raises(AttributeError):
        refusing("__path__")


def test_without_its_packages_it_says_which_environment_it_needs(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for start in (main, replace_compiled_operations):
        with pytest.raises((SystemExit, ModuleNotFoundError), match=r"not installed: .*mmcv.*mmseg.README\.md"):
            start()


@needs_mmseg
def test_a_checkpoint_that_asks_for_more_than_mmengine_writes_is_refused(mmseg_scope, tmp_path):
    allow_checkpoints()
    torch.save({"history": AsksFor(torch.Tensor, "__class__")}, tmp_path / "asks.pth")
    with pytest.raises(ValueError, match="__class__"):
        torch.load(tmp_path / "asks.pth", weights_only=True)


class AsksFor:
    def __init__(self, *attribute):
        self.attribute = attribute

    def __reduce__(self):
        return getattr, self.attribute


@pytest.fixture
def mmseg_scope():
    replace_compiled_operations()
    from mmengine.registry import DefaultScope, init_default_scope

    before = DefaultScope.get_current_instance()
    init_default_scope("mmseg")
    yield
    assert before is None or before.scope_name == "mmseg"


@needs_mmseg
@pytest.mark.parametrize("path", MMSEG, ids=name_of)
def test_mmseg_builds_the_segmentor_and_loads_the_whole_backbone(
    path, mmseg_scope, converted, trunk, network, monkeypatch
):
    from mmseg.registry import MODELS

    keep_environment(monkeypatch)
    model = MODELS.build(load_config(path, weights=converted).model)
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    model.init_weights()
    loaded = model.backbone.state_dict()
    assert set(loaded) == set(trunk)
    assert not torch.equal(before["conv1.weight"], trunk["conv1.weight"])
    assert all(torch.equal(value, trunk[key]) for key, value in loaded.items())
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        c3 = model.eval().backbone(image)[1]
        stem = network.maxpool(network.relu(network.bn1(network.conv1(image))))
        torch.testing.assert_close(c3, network.layer2(network.layer1(stem)))


def keep_environment(monkeypatch) -> None:
    for name in ("WEIGHTS", "DATA"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def shrink(config, folder: Path) -> None:
    """Make a config run here: a few small images in one process, where mmengine takes BatchNorm for SyncBN."""
    training = config.train_dataloader
    config.model.data_preprocessor.size = (64, 64)
    if "datasets" in training.dataset:
        # The embedded data has no second folder of labels.
        training.dataset = training.dataset.datasets[0]
    training.batch_size = 2
    training.dataset.indices = 4
    for loader in (training, config.val_dataloader, config.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(folder)
        for step in loader.dataset.pipeline:
            if step.type in ("RandomCrop", "Pad"):
                step["crop_size" if step.type == "RandomCrop" else "size"] = (64, 64)
            if step.type in ("Resize", "RandomResize"):
                step.scale = (96, 48)
    length = (
        {"max_epochs": 1, "val_interval": 1}
        if "max_epochs" in config.train_cfg
        else {"max_iters": 2, "val_interval": 2}
    )
    config.train_cfg.update(length)
    config.default_hooks.checkpoint.interval = length["val_interval"]


def write_train_ids(folder: Path) -> None:
    """Beside each image of Cityscapes' label ids one of train ids, as the dataset's own scripts make them."""
    table = np.full(256, 255, np.uint8)
    table[list(TRAIN_IDS)] = np.arange(len(TRAIN_IDS))
    for path in folder.glob("gtFine/*/*/*_gtFine_labelIds.png"):
        ids = table[np.asarray(Image.open(path))]
        Image.fromarray(ids).save(path.with_name(path.name.replace("labelIds", "labelTrainIds")))


@needs_mmseg
@pytest.mark.slow
@pytest.mark.parametrize("path", MMSEG, ids=name_of)
def test_mmseg_trains_judges_and_goes_on_with_each_config(path, mmseg_scope, converted, layouts, tmp_path, monkeypatch):
    from mmengine.runner import Runner

    keep_environment(monkeypatch)
    allow_checkpoints()
    folder = layouts / ("cityscapes" if "cityscapes" in path.stem else "voc")
    if folder.name == "cityscapes":
        write_train_ids(folder)
    config = load_config(path, weights=converted, out=str(tmp_path), options={"experiment_name": tmp_path.name})
    shrink(config, folder)
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter == 2
    score = runner.message_hub.get_scalar("val/mIoU").current()
    assert 0 <= score <= 100
    config.experiment_name += "_resumed"
    config.resume = True
    resumed = Runner.from_cfg(config)
    resumed.load_or_resume()
    assert resumed.iter == 2
