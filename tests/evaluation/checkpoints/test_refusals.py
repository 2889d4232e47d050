import pickle

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from evaluation.checkpoints.reading import read_checkpoint
from tests.evaluation.checkpoints.published_states import COPIES, PUBLISHED, tiny
from utils.errors import UserError


@pytest.mark.parametrize("layout", COPIES)
def test_a_copy_that_differs_is_refused_by_name(layout, save):
    copy, original = COPIES[layout]
    state = small_state(layout)
    key = original + ("4.0.bn1.bias" if layout == "r2o" else "layer1.0.bn1.bias")
    name = (copy + key.removeprefix(original)).removeprefix("module.")
    for other in (state[key] + 1e-6, state[key] * float("nan"), state[key][:-1], state[key].double()):
        with pytest.raises(UserError, match=f"differ.*{name}"):
            read_checkpoint(save({PUBLISHED[layout][1]: state | {key: other}}))


@pytest.mark.parametrize("layout", COPIES)
def test_copies_that_are_alike_in_nan_say_that_the_run_diverged(layout, save):
    state = small_state(layout)
    for value in state.values():
        if value.dim():
            value[..., :1] = float("nan")
    network = "target" if layout == "r2o" else "online"
    with pytest.raises(UserError, match="conv1.weight is not finite: the run that wrote it had diverged"):
        read_checkpoint(save({PUBLISHED[layout][1]: state}), network=network)


def small_state(layout: str) -> dict[str, torch.Tensor]:
    """The state of a release with small trunks, its copies equal, without heads."""
    _, _, *prefixes = PUBLISHED[layout]
    trunks = tiny(0), tiny(1)
    if layout == "r2o":
        trunks = [nn.Sequential(*trunk.children()) for trunk in trunks]
    state = {}
    for prefix, trunk in zip(prefixes, trunks, strict=True):
        state |= {prefix + key: value for key, value in trunk.state_dict().items()}
    if layout in COPIES:
        copy, original = COPIES[layout]
        own = {key: value for key, value in state.items() if key.startswith(original)}
        state |= {copy + key.removeprefix(original): value.clone() for key, value in own.items()}
    return state


def test_a_tensor_that_is_there_under_two_names_is_refused(save):
    state = {"stem.conv1.weight": torch.ones(1), "backbone.stem.conv1.weight": torch.ones(1)}
    with pytest.raises(UserError, match="holds what that has not: backbone.stem.conv1.weight"):
        read_checkpoint(save(state))


@pytest.mark.parametrize(
    "key", ["layer1.0.se.fc1.weight", "layer5.0.conv1.weight", "classifier.weight", "mystery", "conv1.0.weight"]
)
def test_a_key_that_nothing_is_known_of_is_refused_by_name(key, save):
    with pytest.raises(UserError, match=f"holds what that has not: {key}"):
        read_checkpoint(save(tiny().state_dict() | {key: torch.ones(1)}))


def test_a_key_of_a_release_that_nothing_is_known_of_is_refused_by_name(save):
    state = small_state("orl") | {"teacher.weight": torch.ones(1)}
    with pytest.raises(UserError, match="orl.*holds what that has not: teacher.weight"):
        read_checkpoint(save({"state_dict": state}))


@pytest.mark.parametrize("key", ["conv1.weight", "layer3.0.bn2.running_var", "layer4.0.downsample.1.bias"])
def test_a_missing_key_is_refused_by_name(key, save):
    state = {f"backbone.{name}": value for name, value in tiny().state_dict().items() if name != key}
    content = {"method": state, "config": {}}
    with pytest.raises(UserError, match="keys are" if key == "conv1.weight" else f"{key} is missing"):
        read_checkpoint(save(content))


def test_a_missing_block_is_refused_by_name(save):
    with torch.device("meta"):
        trunk = torchvision.models.resnet50().state_dict()
    # Zeros of one element: what counts here is their names and shapes.
    state = {f"module.encoder_q.{key}": torch.zeros(()).expand(value.shape) for key, value in trunk.items()}
    state = {key: value for key, value in state.items() if "layer3.5" not in key}
    with pytest.raises(
        UserError, match=r"resnet50 comes nearest, but layer3.5.conv1.weight, .* and 11 more is missing"
    ):
        read_checkpoint(save({"state_dict": state}))


def test_a_wrong_shape_is_refused_by_name(save):
    state = tiny().state_dict() | {"layer2.0.conv1.weight": torch.ones(16, 8, 5, 5)}
    with pytest.raises(UserError, match="layer2.0.conv1.weight has another shape"):
        read_checkpoint(save(state))


def test_numbers_that_are_not_finite_are_refused_by_name(save):
    state = tiny().state_dict()
    state["layer4.0.bn2.running_mean"][3] = float("nan")
    with pytest.raises(UserError, match="layer4.0.bn2.running_mean is not finite"):
        read_checkpoint(save(state))


def test_a_pyramid_that_is_not_finite_is_refused_by_name(save):
    state = small_state("resim") | {"module.encoder_q.fpn_lateral4.weight": torch.full((2, 2, 1, 1), float("inf"))}
    with pytest.raises(UserError, match="lateral.c4.weight is not finite"):
        read_checkpoint(save({"state_dict": state}))


def test_another_layout_than_was_said_is_refused_saying_which_it_is(save):
    path = save({"state_dict": small_state("cyborgs")})
    with pytest.raises(UserError, match="not orl .*looks like cyborgs"):
        read_checkpoint(path, source="orl")
    with pytest.raises(UserError, match="not one of auto, ours, r2o"):
        read_checkpoint(path, source="simclr")
    with pytest.raises(UserError, match="not ours .*looks like torchvision"):
        read_checkpoint(save(tiny().state_dict()), source="ours")


def test_a_network_that_is_not_there_is_refused(save):
    with pytest.raises(UserError, match="no target network.*there is online"):
        read_checkpoint(save(tiny().state_dict()), network="target")


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, {"state_dict": {}}, {"weight": torch.ones(1)}])
def test_a_file_without_weights_that_are_known_is_refused(content, save):
    with pytest.raises(UserError, match="checkpoint.pth"):
        read_checkpoint(save(content))


class _Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("writer", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_file_is_refused_and_not_run(writer, tmp_path):
    path, marker = tmp_path / "evil.pkl", tmp_path / "was_here"
    writer(tiny().state_dict() | {"mystery": _Evil(marker)}, path)
    with pytest.raises(UserError, match="could run code"):
        read_checkpoint(path)
    assert not marker.exists()


def test_missing_damaged_and_foreign_files_are_refused(tmp_path, save):
    path = save(tiny().state_dict())
    (tmp_path / "half.pth").write_bytes(path.read_bytes()[:5000])
    save_file(tiny().state_dict(), tmp_path / "whole.safetensors")
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:5000])
    (tmp_path / "half.pkl").write_bytes(pickle.dumps({"model": [1.5] * 99})[:300])
    (tmp_path / "text.pth").write_text("weights")
    (tmp_path / "empty.pth").touch()
    reasons = dict.fromkeys(("half.pth", "half.safetensors", "half.pkl"), "damaged")
    reasons |= {"none.pth": "none.pth", "text.pth": "neither", "empty.pth": "neither", "": "folder"}
    for name, reason in reasons.items():
        with pytest.raises(UserError, match=reason):
            read_checkpoint(tmp_path / name)
