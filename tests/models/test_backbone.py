import pytest
import torch
import torchvision

from models.backbone import Trunk, load_trunk, make_trunk
from models.heads import MLP, make_heads
from utils.sections import Head


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


def test_an_unknown_backbone_names_those_there_are():
    with pytest.raises(ValueError, match="'resnet51' is not one of resnet_tiny, resnet101"):
        make_trunk("resnet51")


@pytest.mark.parametrize("strides", [(3, 1, 2, 2, 2), (8, 2, 2, 2, 4)])
def test_strides_whose_levels_could_not_be_measured_are_refused(strides):
    with pytest.raises(ValueError, match="model.backbone.strides.*powers of two"):
        make_trunk("resnet_tiny", width=2, blocks=(1, 1, 1, 1), strides=strides)
    deepest = make_trunk("resnet_tiny", width=2, blocks=(1, 1, 1, 1), strides=(8, 2, 2, 2, 2))
    assert [level.stride for level in deepest.levels.values()] == [16, 32, 64, 128]


def test_a_head_normalises_rows_of_all_images_and_regions_together():
    head, x = MLP(6, hidden_dim=5, output_dim=3), torch.randn(4, 7, 6)
    assert torch.allclose(head(x).flatten(0, 1), head(x.flatten(0, 1)), atol=1e-6)
    assert head(x).shape == (4, 7, 3)


def test_a_head_without_norm_sees_each_row_alone_and_is_two_layers():
    head, x = MLP(6, hidden_dim=5, output_dim=3, norm=False), torch.randn(4, 6)
    first, last = head[0], head[2]
    assert torch.allclose(head(x)[1], last(first(x[1]).relu()), atol=1e-6)
    assert not list(head.buffers()) and make_heads(64, Head(), None, norm=False)[0][1].__class__ is torch.nn.ReLU


def test_a_wrong_input_size_of_a_head_is_refused():
    with pytest.raises(ValueError, match="model.predictor.input_dim: 99, but 256 channels come in"):
        make_heads(64, Head(), Head(input_dim=99))
    with pytest.raises(ValueError, match="model.predictor.output_dim"):
        make_heads(64, Head(), Head(output_dim=99))
