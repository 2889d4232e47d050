from typing import NamedTuple

import pytest
import torch
import torchvision
from torch import nn

from evaluation.checkpoints.layouts import NECK_KEY
from evaluation.checkpoints.reading import Weights, read_checkpoint
from models.backbone import Trunk, make_trunk
from models.byol import BYOL
from models.cyborgs import Cyborgs
from models.detconb import DetCon
from models.fpn import FPN
from models.heads import MLP
from models.orl import BRANCHES, ORL
from models.r2o import R2O
from models.resim import ReSim, Windows
from tests.evaluation.checkpoints.published_states import (
    PUBLISHED,
    TINY,
    assert_same,
    network_below,
    ours,
    published,
    tiny,
    trunk_names,
)


class Release(NamedTuple):
    layout: str
    content: dict
    online: Weights
    target: Weights


@pytest.fixture(scope="module", params=PUBLISHED)
def release(request, tmp_path_factory):
    content, path = published(request.param), tmp_path_factory.mktemp("release") / "checkpoint.pth"
    torch.save(content, path)
    yield Release(request.param, content, *(read_checkpoint(path, network=network) for network in ("online", "target")))
    path.unlink()


@pytest.mark.parametrize("network", ["online", "target"])
def test_the_trunk_of_a_published_checkpoint_is_read_whole(release, network):
    layout, content, weights = release.layout, release.content, getattr(release, network)
    _, container, online, target = PUBLISHED[layout]
    assert (weights.layout, weights.architecture, weights.settings) == (layout, "resnet50", None)
    prefix = online if network == "online" else target
    assert_same(weights.trunk, network_below(content[container], prefix, trunk_names()))


def test_every_key_of_a_published_checkpoint_is_taken_or_left_out_for_a_reason(release):
    layout, content, weights = release.layout, release.content, release.online
    left_out = [key for keys in weights.ignored.values() for key in keys]
    assert len(weights.trunk) + len(weights.neck) + len(left_out) == len(content[PUBLISHED[layout][1]]) + 2
    assert len(set(left_out)) == len(left_out)


def test_r2o_without_its_copy_is_known_by_its_config(save):
    state = {f"module.online_network.encoder.{key}": value for key, value in in_sequence(tiny()).items()}
    path = save({"model": state, "config": {"clustering": {}}})
    assert (read_checkpoint(path).layout, read_checkpoint(path).whose) == ("r2o", "the released R2O")
    path = save({"model": state, "config": {"loss": {}}})
    assert (read_checkpoint(path).layout, read_checkpoint(path).whose) == ("detconb", "the released DetCon-B")


def test_where_nothing_tells_r2o_from_detconb_either_is_named(save):
    state = {f"module.online_network.encoder.{key}": value for key, value in in_sequence(tiny()).items()}
    path = save({"model": state})
    whose = "the released R2O or DetCon-B, which have the same keys"
    assert (read_checkpoint(path).layout, read_checkpoint(path).whose) == ("detconb", whose)
    assert read_checkpoint(path, source="r2o").whose == "the released R2O"
    assert_same(read_checkpoint(path).trunk, tiny().state_dict())


def in_sequence(trunk: Trunk) -> dict[str, torch.Tensor]:
    """A trunk's state as a torch.nn.Sequential of its children has it."""
    return nn.Sequential(*trunk.children()).state_dict()


def test_features_are_those_of_the_released_model(save):
    content = published("r2o")
    released = nn.Sequential(*list(torchvision.models.resnet50().children())[:-2]).eval()
    prefix = "module.online_network.encoder."
    state = {key.removeprefix(prefix): v for key, v in content["model"].items() if key.startswith(prefix)}
    released.load_state_dict(state)
    trunk = make_trunk("resnet50").eval()
    trunk.load_state_dict(read_checkpoint(save(content)).trunk)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = released(images)
        assert expected.isfinite().all() and expected.std() > 0
        assert torch.equal(trunk(images)["c5"], expected)


def test_detconb_with_finer_masks_calls_its_trunk_otherwise_and_has_a_pyramid(save):
    children = list(torchvision.models.resnet18().children())
    names = {"C1": nn.Sequential(*children[:4])} | {f"C{n}": nn.Sequential(*children[n + 2]) for n in (2, 3, 4, 5)}
    online = nn.ModuleDict(names)
    expected = torchvision.models.resnet18().state_dict().keys() - {"fc.weight", "fc.bias"}
    pyramid = {f"P{n}_conv1": nn.Conv2d(2 ** (n + 4), 6, 1) for n in (3, 4, 5)}
    pyramid["P3_conv2"] = nn.Sequential(nn.Identity(), nn.Conv2d(6, 6, 3))
    online["fpn"] = nn.ModuleDict(pyramid)
    online["projetion"] = nn.Linear(2, 2)
    state = {f"module.online_network.{key}": value for key, value in online.state_dict().items()}
    weights = read_checkpoint(save({"model": state}))
    assert (weights.layout, weights.architecture) == ("detconb", "resnet18")
    assert weights.trunk.keys() == expected
    assert torch.equal(weights.trunk["layer3.1.bn2.weight"], online["C4"][1].bn2.weight)
    assert torch.equal(weights.trunk["conv1.weight"], online["C1"][0].weight)
    levels = {
        f"{kind}.{end}"
        for kind in ("lateral.c3", "lateral.c4", "lateral.c5", "output.c3")
        for end in ("weight", "bias")
    }
    assert weights.neck.keys() == levels
    assert torch.equal(weights.neck["output.c3.weight"], pyramid["P3_conv2"][1].weight)
    assert torch.equal(weights.neck["lateral.c4.bias"], pyramid["P4_conv1"].bias)


def test_the_pyramid_of_resim_is_the_neck(save):
    content = published("resim")
    weights = read_checkpoint(save(content), network="target")
    assert len(weights.neck) == 10
    assert all(NECK_KEY.fullmatch(name) for name in weights.neck)
    state = content["state_dict"]
    assert torch.equal(weights.neck["lateral.c5.weight"], state["module.encoder_k.fpn_lateral5.weight"])
    assert torch.equal(weights.neck["output.c3.bias"], state["module.encoder_k.fpn_output3.bias"])


def test_a_pyramid_with_norms_has_them_under_their_name(save):
    state = {f"module.encoder_q.{key}": value for key, value in tiny().state_dict().items()}
    for kind in ("lateral5", "lateral4", "output4"):
        state[f"module.encoder_q.fpn_{kind}.0.weight"] = torch.randn(2, 2, 1, 1)
        state[f"module.encoder_q.fpn_{kind}.1.running_var"] = torch.rand(2)
    neck = read_checkpoint(save({"state_dict": state})).neck
    assert torch.equal(neck["output.c4.weight"], state["module.encoder_q.fpn_output4.0.weight"])
    assert torch.equal(neck["lateral.c5.norm.running_var"], state["module.encoder_q.fpn_lateral5.1.running_var"])


@pytest.mark.parametrize("head", [{"fc.weight": 1}, {"fc.0.weight": 1, "fc.2.weight": 1}])
def test_moco_of_either_version_is_read(head, save):
    query, key = tiny(0).state_dict(), tiny(1).state_dict()
    state = {f"module.encoder_q.{name}": value for name, value in query.items()}
    state |= {f"module.encoder_k.{name}": value for name, value in key.items()}
    state |= {f"module.encoder_q.{name}": torch.ones(1) for name in head} | {"module.queue": torch.ones(2)}
    path = save({"arch": "resnet50", "state_dict": state})
    assert read_checkpoint(path).layout == "moco"
    assert_same(read_checkpoint(path).trunk, query)
    assert_same(read_checkpoint(path, source="moco", network="target").trunk, key)


def make_methods() -> dict[str, nn.Module]:
    """Every method on a small trunk, its target network another one than its online one."""

    def head(inputs: int) -> MLP:
        return MLP(inputs, hidden_dim=4, output_dim=4)

    def momentum(progress) -> float:
        return 0.5

    def fpn() -> FPN:
        return FPN({"c3": 16, "c4": 32, "c5": 64}, out_channels=6, outputs=("c3", "c4"), norm=True)

    windows = (Windows("c4", 8, 4, True), Windows("c3", 8, 4, False))
    methods = {
        "r2o": R2O(tiny(), head(64), head(4), momentum=momentum, num_clusters=lambda progress: 4),
        "detcon": DetCon(tiny(), head(6), head(4), neck=fpn(), level="c3", momentum=momentum),
        "resim": ReSim(tiny(), head(64), fpn(), windows=windows, queue_size=8, dim=4, momentum=momentum),
        "byol": BYOL(tiny(), head(64), head(4), momentum=momentum),
        "orl": ORL(
            tiny(),
            head(64),
            {name: head(4) for name in BRANCHES},
            weights=dict.fromkeys(BRANCHES, 1.0),
            momentum=momentum,
        ),
        "cyborgs": Cyborgs(tiny(), head(112), head(4), pool_size=4, momentum=momentum),
    }
    for method in methods.values():
        for value in method.target.state_dict().values():
            value.add_(1)
    return methods


METHODS = make_methods()


@pytest.mark.parametrize("name", METHODS)
def test_both_networks_of_every_method_here_are_read_with_their_settings(name, save):
    method = METHODS[name]
    path = save(ours(method))
    online, target = read_checkpoint(path), read_checkpoint(path, network="target")
    assert (online.layout, online.architecture, online.settings) == ("ours", "resnet_tiny", TINY)
    assert_same(online.trunk, method.backbone.state_dict())
    assert_same(target.trunk, method.target[0].state_dict())
    assert not torch.equal(online.trunk["bn1.weight"], target.trunk["bn1.weight"])


@pytest.mark.parametrize("name", ["detcon", "resim"])
def test_the_pyramids_of_our_methods_are_read_from_both_networks(name, save):
    method = METHODS[name]
    path = save(ours(method))
    for network, fpn in (("online", method.neck), ("target", method.target[1])):
        neck = read_checkpoint(path, network=network).neck
        assert len(neck) == len(fpn.state_dict()) > 0
        assert torch.equal(neck["lateral.c4.weight"], fpn.lateral["c4"][0].weight)
        assert torch.equal(neck["output.c3.norm.running_var"], fpn.output["c3"][1].running_var)


def test_an_evaluators_checkpoint_gives_its_backbone(save):
    model = nn.ModuleDict({"backbone": tiny(3), "head": nn.Linear(2, 2)})
    weights = read_checkpoint(save(ours(model)))
    assert_same(weights.trunk, model["backbone"].state_dict())
    assert weights.ignored["heads and other state of the method"] == ["head.weight", "head.bias"]
