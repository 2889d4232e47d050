import pickle

import pytest
import torch
import torchvision
from torch import nn

from evaluation.checkpoints.reading import read_checkpoint
from models.backbone import make_trunk
from tests.evaluation.checkpoints.published_states import assert_same, tiny


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]
)
def test_what_wrappers_put_before_the_keys_is_taken_off(prefix, save):
    method = nn.ModuleDict({"backbone": tiny(), "head": nn.Linear(2, 2)})
    state = {prefix + key: value for key, value in method.state_dict().items()}
    assert_same(read_checkpoint(save({"method": state})).trunk, tiny().state_dict())
    flat = {prefix + key: value for key, value in tiny().state_dict().items()}
    assert_same(read_checkpoint(save(flat)).trunk, tiny().state_dict())


def test_arrays_of_another_byte_order_are_read_without_a_warning(tmp_path, recwarn):
    arrays = {key: value.numpy() for key, value in tiny().state_dict().items()}
    arrays["conv1.weight"] = arrays["conv1.weight"].astype(">f4")
    (tmp_path / "backbone.pkl").write_bytes(pickle.dumps({"model": arrays}))
    assert_same(read_checkpoint(tmp_path / "backbone.pkl").trunk, tiny().state_dict())
    assert not recwarn.list


def test_backbone_pth_is_torchvisions_layout(save):
    weights = read_checkpoint(save(tiny().state_dict(), "backbone.pth"))
    assert (weights.layout, weights.settings, weights.ignored, weights.neck) == ("torchvision", None, {}, {})
    assert_same(weights.trunk, tiny().state_dict())


@pytest.mark.parametrize("source", ["torchvision", "timm", "mmseg"])
def test_flat_files_can_be_called_by_any_of_their_names(source, save):
    path = save({"state_dict": tiny().state_dict() | {"fc.weight": torch.ones(2, 2)}})
    assert read_checkpoint(path, source=source).ignored["classifier or head (fc)"] == ["fc.weight"]


def test_a_segmentor_of_mmseg_gives_its_backbone(save):
    state = {f"backbone.{key}": value for key, value in tiny().state_dict().items()}
    state |= {"decode_head.conv_seg.weight": torch.ones(1), "auxiliary_head.convs.0.conv.weight": torch.ones(1)}
    weights = read_checkpoint(save({"meta": {}, "state_dict": state}))
    assert weights.layout == "mmseg"
    assert_same(weights.trunk, tiny().state_dict())


def test_what_torch_wrote_before_it_wrote_zip_files_is_read(tmp_path):
    torch.save(tiny().state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_same(read_checkpoint(tmp_path / "old.pth").trunk, tiny().state_dict())


def test_counters_that_old_files_lack_are_zero(save):
    state = {key: value for key, value in tiny().state_dict().items() if "num_batches_tracked" not in key}
    trunk = read_checkpoint(save(state)).trunk
    assert trunk.keys() == tiny().state_dict().keys()
    assert trunk["layer2.0.bn1.num_batches_tracked"].item() == 0


def test_half_precision_becomes_float32(save):
    trunk = read_checkpoint(save({key: value.half() for key, value in tiny().state_dict().items()})).trunk
    assert torch.equal(trunk["conv1.weight"], tiny().conv1.weight.half().float())
    assert {value.dtype for key, value in trunk.items() if "num_batches" not in key} == {torch.float32}


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "wide_resnet50_2"])
def test_trunks_of_other_kinds_are_told_by_what_is_in_the_file(name, save):
    # Zeros of one element: what counts here is their shapes.
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in torchvision.models.get_model(name).state_dict().items()}
    path = save({key: torch.zeros(()).expand(shape) for key, shape in shapes.items()})
    assert read_checkpoint(path).architecture == name


def test_a_trunk_of_other_blocks_and_a_stride_at_the_start_is_tiny_too(save):
    trunk = make_trunk("resnet_tiny", width=4, blocks=(2, 1, 3, 1), strides=(2, 2, 2, 1, 2))
    assert_same(read_checkpoint(save(trunk.state_dict())).trunk, trunk.state_dict())
