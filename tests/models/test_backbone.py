import pytest
import torch
import torchvision

from models.backbone import Trunk, load_trunk, make_trunk


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_trunk_holds_torchvisions_keys_without_the_classifier(name):
    theirs = torchvision.models.get_model(name).state_dict()
    assert make_trunk(name).state_dict().keys() == {key for key in theirs if not key.startswith("fc.")}


def test_levels_are_those_of_torchvisions_resnet():
    resnet = torchvision.models.resnet18().eval()
    trunk = Trunk(resnet).eval()
    images = torch.randn(2, 3, 64, 96)
    features = trunk(images)
    assert {name: tuple(level) for name, level in trunk.levels.items()} == {
        "c2": (64, 4),
        "c3": (128, 8),
        "c4": (256, 16),
        "c5": (512, 32),
    }
    assert [tuple(x.shape[1:]) for x in features.values()] == [(64, 16, 24), (128, 8, 12), (256, 4, 6), (512, 2, 3)]
    assert torch.allclose(resnet.fc(features["c5"].mean((2, 3))), resnet(images), atol=1e-5)


def test_later_stages_are_not_run_for_an_earlier_level():
    trunk = make_trunk("resnet_tiny", width=8).train()
    assert list(trunk(torch.randn(2, 3, 32, 32), last="c4")) == ["c2", "c3", "c4"]
    assert trunk.layer4[0].bn1.num_batches_tracked == 0 < trunk.layer3[0].bn1.num_batches_tracked


def test_measuring_levels_leaves_no_trace():
    trunk = make_trunk("resnet_tiny", width=8)
    assert trunk.training and trunk.bn1.num_batches_tracked == 0


@pytest.mark.parametrize("strides", [(1, 1, 2, 2, 2), (2, 1, 2, 2, 1)])
def test_a_tiny_resnet_has_the_strides_asked_for(strides):
    trunk = make_trunk("resnet_tiny", width=8, strides=strides)
    stride = strides[0]
    for factor, (channels, level) in zip(strides[1:], zip((8, 16, 32, 64), trunk.levels.values())):
        stride *= factor
        assert level == (channels, stride)


def test_stages_above_a_level_can_be_frozen():
    trunk = make_trunk("resnet_tiny", width=8)
    trunk.freeze_above("c4")
    assert {name.partition(".")[0] for name, p in trunk.named_parameters() if not p.requires_grad} == {"layer4"}


def test_exported_weights_load_with_and_without_a_classifier(tmp_path):
    resnet = torchvision.models.resnet18()
    torch.save(resnet.state_dict(), tmp_path / "full.pth")
    trunk = make_trunk("resnet18", pretrained=str(tmp_path / "full.pth"))
    assert torch.equal(trunk.conv1.weight, resnet.conv1.weight)
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match="bad.pth does not fit"):
        load_trunk(trunk, str(tmp_path / "bad.pth"))


def test_a_trunk_can_be_cut_after_a_stage_or_a_block():
    trunk, images = make_trunk("resnet50").eval(), torch.randn(1, 3, 32, 48)
    features = trunk(images, last="c4")
    assert torch.equal(trunk.until("layer3")(images), features["c4"])
    assert torch.equal(trunk.until("layer3.5")(images), features["c4"])
    third = trunk.until("layer2.2")
    assert torch.equal(trunk.layer2[3](third(images)), features["c3"])
    assert third[-1] is trunk.layer2[2]


@pytest.mark.parametrize("name", ["layer2.2", "layer5", "conv1", "fc", ""])
def test_a_layer_that_is_not_there_names_those_there_are(name):
    with pytest.raises(
        ValueError, match=f"bootstrap.layer_name: '{name}' is not one of layer1, layer1.0, layer1.1, layer2, "
    ):
        make_trunk("resnet18").until(name)


def test_an_unknown_backbone_names_those_there_are():
    with pytest.raises(ValueError, match="'resnet51' is not one of resnet_tiny, resnet101"):
        make_trunk("resnet51")


@pytest.mark.parametrize("strides", [(3, 1, 2, 2, 2), (8, 2, 2, 2, 4)])
def test_strides_whose_levels_could_not_be_measured_are_refused(strides):
    with pytest.raises(ValueError, match="model.backbone.strides.*powers of two"):
        make_trunk("resnet_tiny", width=2, blocks=(1, 1, 1, 1), strides=strides)
    deepest = make_trunk("resnet_tiny", width=2, blocks=(1, 1, 1, 1), strides=(8, 2, 2, 2, 2))
    assert [level.stride for level in deepest.levels.values()] == [16, 32, 64, 128]
