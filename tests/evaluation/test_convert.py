import os
import pickle

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file

from evaluation.checkpoints.reading import read_checkpoint
from evaluation.convert import TARGETS, detectron2_names, main
from tests.evaluation.checkpoints.published_states import (
    assert_same,
    network_below,
    ours,
    published,
    published_state,
    tiny,
    trunk_names,
)

SUFFIX = {"torchvision": "pth", "detectron2": "pkl", "mmseg": "pth", "timm": "pth", "safetensors": "safetensors"}


@pytest.fixture(scope="module")
def resim(tmp_path_factory):
    path = tmp_path_factory.mktemp("resim") / "checkpoint_0199.pth.tar"
    torch.save(published("resim"), path)
    return path


@pytest.fixture(scope="module")
def detectron2(resim):
    """ReSim's checkpoint as detectron2 gets it."""
    path = resim.with_name("backbone.pkl")
    assert main(["--to", "detectron2", str(resim), str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def small_resim(tmp_path_factory):
    """A checkpoint like ReSim's of the smallest ResNet that every target takes, with a pyramid."""
    path = tmp_path_factory.mktemp("small_resim") / "checkpoint.pth"
    state = resnet18() | {f"fpn_lateral{n}.weight": torch.randn(6, 2 ** (4 + n), 1, 1) for n in (3, 4, 5)}
    torch.save({"state_dict": {f"module.encoder_q.{key}": value for key, value in state.items()}}, path)
    return path


def resnet18() -> dict[str, torch.Tensor]:
    state = torchvision.models.resnet18().state_dict()
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    # BatchNorm's numbers begin alike: any would do for any other.
    return {key: value + torch.rand(value.shape) if value.dim() == 1 else value for key, value in state.items()}


@pytest.fixture
def checkpoint(tmp_path):
    """One of ours, with a target network."""
    model = torch.nn.ModuleDict({"backbone": tiny(0), "target": torch.nn.ModuleList([tiny(1)])})
    torch.save(ours(model), tmp_path / "checkpoint.pth")
    return tmp_path / "checkpoint.pth"


def unpickled(path) -> dict:
    return pickle.loads(path.read_bytes())


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in published_state(name).items()}


def test_detectron2_gets_the_names_that_resims_converter_gives_without_its_head(detectron2):
    content = unpickled(detectron2)
    assert (content["matching_heuristics"], content["__author__"]) == (True, "region-object-pretraining")
    released = {key: shape for key, shape in shapes_of("resim_detectron2_after_convert").items() if "fc" not in key}
    assert {key: value.shape for key, value in content["model"].items()} == released
    assert all(isinstance(value, np.ndarray) for value in content["model"].values())


def test_detectron2_gets_each_number_where_orls_converter_puts_it(tmp_path):
    torch.save(published("orl"), tmp_path / "orl.pth")
    assert main(["--to", "detectron2", str(tmp_path / "orl.pth"), str(tmp_path / "orl.pkl")]) == 0
    trunk = network_below(published_state("orl_checkpoint_state_dict"), "online_net.0.", trunk_names())
    # Both lists are in torchvision's order.
    names = list(shapes_of("orl_detectron2_after_convert"))
    model = {key: torch.as_tensor(value) for key, value in unpickled(tmp_path / "orl.pkl")["model"].items()}
    assert_same(model, dict(zip(names, trunk.values(), strict=True)))


def test_numpy_1_finds_in_the_pickle_what_it_knows(detectron2):
    data = detectron2.read_bytes()
    assert b"numpy._core" not in data and b"cnumpy.core.multiarray\n_reconstruct" in data


def test_there_and_back_through_every_format_changes_no_bit(small_resim, tmp_path):
    original, detectron2 = read_checkpoint(small_resim), tmp_path / "backbone.pkl"
    assert main(["--to", "detectron2", str(small_resim), str(detectron2)]) == 0
    written, path = {}, detectron2
    steps = (("torchvision", "detectron2"), ("safetensors", "torchvision"), ("mmseg", "auto"), ("detectron2", "mmseg"))
    for target, source in (*steps, ("timm", "auto")):
        out = written[target] = tmp_path / f"{target}.{'pth' if target == 'detectron2' else SUFFIX[target]}"
        assert main(["--from", source, "--to", target, str(path), str(out)]) == 0
        path = out
    assert_same(torch.load(path, weights_only=True), original.trunk)
    assert list(torch.load(path, weights_only=True)) == list(resnet18())
    # What the others are read with.
    assert_same(load_file(written["safetensors"]), original.trunk)
    assert_same(torch.load(written["mmseg"], weights_only=True)["state_dict"], original.trunk)
    assert_same(read_checkpoint(detectron2).neck, original.neck)
    assert len(original.neck) == 3


@pytest.mark.parametrize("norm", [False, True])
def test_the_pyramid_has_detectron2s_names_with_norms_or_without(norm, tmp_path):
    state = {f"module.encoder_q.{key}": value for key, value in resnet18().items()}
    end = ".0" if norm else ""
    for kind in ("lateral5", "lateral4", "output4"):
        state[f"module.encoder_q.fpn_{kind}{end}.weight"] = torch.randn(6, 4, 1, 1)
        if norm:
            state[f"module.encoder_q.fpn_{kind}.1.running_var"] = torch.rand(6)
    torch.save({"state_dict": state}, tmp_path / "in.pth")
    assert main(["--to", "detectron2", str(tmp_path / "in.pth"), str(tmp_path / "out.pth")]) == 0
    content = torch.load(tmp_path / "out.pth", weights_only=True)
    found = {key: value for key, value in content["model"].items() if "fpn" in key}
    expected = {
        f"backbone.fpn_{kind}.weight": f"fpn_{kind}{end}.weight" for kind in ("lateral5", "lateral4", "output4")
    }
    if norm:
        expected |= {
            f"backbone.fpn_{kind}.norm.running_var": f"fpn_{kind}.1.running_var"
            for kind in ("lateral5", "lateral4", "output4")
        }
    assert_same(found, {name: state[f"module.encoder_q.{key}"] for name, key in expected.items()})


def published_trunk() -> dict[str, torch.Tensor]:
    return network_below(published_state("resim_checkpoint_state_dict"), "module.encoder_q.", trunk_names())


def test_files_that_resims_own_converter_wrote_are_read(checkpoint, tmp_path):
    # It has torch.save write arrays, leaves its head in, and keeps the numbers of the pyramid's modules.
    model = {key: value.numpy() for key, value in detectron2_names(read_checkpoint(checkpoint)).items()}
    model["stem.fc.0.weight"] = model["backbone.fpn_lateral4.0.weight"] = np.ones((2, 2), np.float32)
    model["backbone.fpn_lateral4.1.running_var"] = np.ones(2, np.float32)
    torch.save({"model": model, "__author__": "MOCO", "matching_heuristics": True}, tmp_path / "resim.pkl")
    weights = read_checkpoint(tmp_path / "resim.pkl")
    assert (weights.layout, weights.ignored["classifier or head (fc)"]) == ("detectron2", ["stem.fc.0.weight"])
    assert_same(weights.trunk, tiny().state_dict())
    assert weights.neck.keys() == {"lateral.c4.weight", "lateral.c4.norm.running_var"}


@pytest.mark.parametrize("prefix", ["backbone.", "backbone.bottom_up."])
def test_a_detector_trained_in_detectron2_gives_its_backbone(prefix, tmp_path):
    names = [key for key in shapes_of("orl_detectron2_after_convert") if "num_batches" not in key]
    trunk = {key: value for key, value in published_trunk().items() if "num_batches" not in key}
    state = {prefix + key: value for key, value in zip(names, trunk.values(), strict=True)}
    if prefix == "backbone.":
        # C4: the last stage is the box head, which MoCo gives a norm more.
        state = {key.replace("backbone.res5", "roi_heads.res5"): value for key, value in state.items()}
        state["roi_heads.res5.norm.weight"] = torch.ones(2048)
    state |= {"proposal_generator.rpn_head.conv.weight": torch.ones(1), "pixel_mean": torch.ones(3, 1, 1)}
    torch.save({"model": state, "iteration": 89999}, tmp_path / "model_final.pth")
    weights = read_checkpoint(tmp_path / "model_final.pth")
    assert weights.layout == "detectron2"
    assert_same({key: value for key, value in weights.trunk.items() if "num_batches" not in key}, trunk)


@pytest.mark.parametrize("network", ["online", "target"])
def test_the_network_that_is_asked_for_is_written(network, checkpoint, tmp_path):
    out = tmp_path / "backbone.pth"
    assert main(["--to", "torchvision", "--network", network, str(checkpoint), str(out)]) == 0
    assert_same(torch.load(out, weights_only=True), tiny(network == "target").state_dict())


def test_tensors_that_share_memory_in_the_checkpoint_share_none_in_the_file(tmp_path):
    flat = torch.rand(100_000)
    state = {key: flat[: value.numel()].view(value.shape) for key, value in tiny().state_dict().items()}
    torch.save(state, tmp_path / "in.pth")
    for target, out in (("safetensors", "out.safetensors"), ("torchvision", "out.pth")):
        assert main(["--to", target, str(tmp_path / "in.pth"), str(tmp_path / out)]) == 0
    assert_same(load_file(tmp_path / "out.safetensors"), state)
    written = torch.load(tmp_path / "out.pth", weights_only=True).values()
    assert len({value.untyped_storage().data_ptr() for value in written}) == len(state)


def test_it_says_what_went_where(resim, small_resim, tmp_path, capsys):
    assert main(["--to", "detectron2", str(resim), str(tmp_path / "out.pkl")]) == 0
    said = capsys.readouterr().out
    for line in (
        "resim, online network: the released ReSim",
        "taken: resnet50, 318 tensors, 23.56 million numbers",
        "taken: a feature pyramid, 10 tensors: lateral.c5 (256, 2048, 1, 1)",
        "left out: 8, classifier or head (fc): encoder_k.fc, encoder_q.fc",
        "left out: 2, the queue of keys: queue, queue_ptr",
        "left out: 328, the target network: encoder_k.bn1, encoder_k.conv1, encoder_k.fpn_lateral3, ",
        "left out: 2, beside the weights: epoch, optimizer",
        "out.pkl: detectron2, 328 tensors",
        'MODEL.RESNETS: {DEPTH: 50, STRIDE_IN_1X1: False}, MODEL.FPN: {OUT_CHANNELS: 256, NORM: ""}',
        'INPUT.FORMAT: "RGB"',
    ):
        assert line in said
    assert main(["--to", "timm", str(small_resim), str(tmp_path / "out.pth")]) == 0
    assert "left out: 3, the feature pyramid, which --to timm has no place for" in capsys.readouterr().out


@pytest.mark.parametrize("target", ["detectron2", "mmseg", "timm"])
def test_a_network_that_the_target_has_not_is_refused(target, checkpoint, tmp_path, caplog):
    out = tmp_path / f"out.{SUFFIX[target]}"
    assert main(["--to", target, str(checkpoint), str(out)]) == 2
    assert f"--to {target}: it has no resnet_tiny" in caplog.text
    assert not out.exists()


@pytest.mark.parametrize("target", TARGETS)
def test_a_suffix_that_its_reader_would_not_understand_is_refused(target, checkpoint, tmp_path, caplog):
    assert main(["--to", target, str(checkpoint), str(tmp_path / "out.bin")]) == 2
    assert f"writes .{SUFFIX[target]}" in caplog.text


def test_a_file_is_replaced_only_when_asked_to_and_never_by_half(checkpoint, tmp_path, caplog, monkeypatch):
    out = tmp_path / "out.pth"
    out.write_text("precious")
    command = ["--to", "torchvision", str(checkpoint), str(out)]
    assert main(command) == 2
    assert "out.pth is there already" in caplog.text
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("no space")))
        assert main([*command, "--force"]) == 2
        assert "out.pth could not be written: no space" in caplog.text
    assert out.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pth", "out.pth"]
    assert main([*command, "--force"]) == 0
    assert_same(torch.load(out, weights_only=True), tiny(0).state_dict())


@pytest.mark.parametrize(
    "out, reason", [("folder.pth", "is a folder"), ("file/out.pth", "file is a file"), ("0" * 300 + ".pth", "too long")]
)
def test_where_nothing_can_be_written_is_said_before_the_checkpoint_is_read(out, reason, tmp_path, caplog):
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "file").touch()
    # None is there: reading it would say so.
    assert main(["--to", "torchvision", "--force", str(tmp_path / "none.pth"), str(tmp_path / out)]) == 2
    assert reason in caplog.text


def test_a_folder_that_may_not_be_written_to_is_said_before_the_checkpoint_is_read(tmp_path, caplog, monkeypatch):
    # Not by chmod: the tests may be run by root, who may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path or not mode & os.W_OK)
    assert main(["--to", "torchvision", str(tmp_path / "none.pth"), str(tmp_path / "new" / "out.pth")]) == 2
    assert f"you may not write to {tmp_path}" in caplog.text


def test_a_checkpoint_that_is_not_there_ends_with_its_name_and_exit_code_2(tmp_path, caplog):
    assert main(["--to", "timm", str(tmp_path / "none.pth"), str(tmp_path / "out.pth")]) == 2
    assert "none.pth" in caplog.text
