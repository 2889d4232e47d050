import logging
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from engine import checkpoint as checkpoint_module
from engine.checkpoint import CheckpointStore, export_backbone, gather_buffers, load_checkpoint, restore_buffers
from tests.utils.test_files import die, killed_in_a_child
from utils.errors import UserError
from utils.files import write_json


def save(store, step, *, epoch=0, permanent=False, value=None):
    weight = torch.full((3,), float(step if value is None else value))
    store.save({"weight": weight}, step=step, epoch=epoch, permanent=permanent)


def newest_step(store):
    return store.load_newest()[0]["step"]


def names(store):
    return sorted(path.name for path in store.folder.iterdir())


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def test_a_state_comes_back_with_step_epoch_and_versions(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save({"weight": torch.arange(3.0), "config": {"a": [1, "x", None]}}, step=7, epoch=2, permanent=False)
    state, path = store.load_newest()
    assert state["weight"].tolist() == [0, 1, 2] and state["config"] == {"a": [1, "x", None]}
    assert (state["step"], state["epoch"], state["versions"]["torch"]) == (7, 2, torch.__version__)
    assert path == store.folder / "checkpoint_2_step7.pth"


def test_an_empty_or_missing_folder_holds_none(tmp_path):
    assert CheckpointStore(tmp_path).load_newest() is None
    assert CheckpointStore(tmp_path / "missing").load_newest() is None


def test_the_last_few_and_all_permanent_ones_are_kept(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=2)
    save(store, 10, epoch=1, permanent=True)
    for step in (11, 12, 13):
        save(store, step, epoch=1)
    save(store, 20, epoch=2, permanent=True)
    kept = ["checkpoint_1.pth", "checkpoint_1_step12.pth", "checkpoint_1_step13.pth", "checkpoint_2.pth"]
    assert names(store) == sorted(kept + [f"{name}.json" for name in kept])
    assert [path.name for path in store.paths()] == kept
    assert newest_step(store) == 20


def test_a_template_names_the_files_and_others_in_the_folder_are_left_alone(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=1, template="stamp[1]_resnet50_{}.pth.tar")
    (tmp_path / "stamp[1]_resnet50.pth").touch()
    save(store, 1, epoch=3, permanent=True)
    save(store, 2, epoch=3)
    save(store, 3, epoch=3)
    assert [name for name in names(store) if not name.endswith("json")] == [
        "stamp[1]_resnet50.pth",
        "stamp[1]_resnet50_3.pth.tar",
        "stamp[1]_resnet50_3_step3.pth.tar",
    ]
    assert newest_step(store) == 3


def test_the_newest_is_the_last_written_even_after_resuming_from_an_older_step(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=2)
    for step in (100, 300, 150):
        save(store, step)
    assert newest_step(store) == 150
    save(store, 160)
    assert newest_step(store) == 160
    kept = [f"checkpoint_0_step{step}.pth" for step in (150, 160)]
    assert [name for name in names(store) if name.endswith(".pth")] == kept


def test_a_damaged_newest_falls_back_with_a_warning(tmp_path, caplog):
    store = CheckpointStore(tmp_path)
    save(store, 1)
    save(store, 2)
    damage(tmp_path / "checkpoint_0_step2.pth")
    with caplog.at_level(logging.WARNING):
        assert newest_step(store) == 1
    assert "checkpoint_0_step2.pth is damaged" in caplog.text


def test_damage_in_the_tensors_alone_is_noticed(tmp_path):
    path = tmp_path / "checkpoint_0_step1.pth"
    CheckpointStore(tmp_path).save({"weight": torch.zeros(1000)}, step=1, epoch=0, permanent=False)
    content = path.read_bytes()
    path.write_bytes(content.replace(bytes(400), b"\1" * 400, 1))
    assert torch.load(path, weights_only=True)["weight"].sum() != 0
    with pytest.raises(UserError, match="checksum"):
        load_checkpoint(path)


@pytest.mark.parametrize("size", [0, 10, 500, 900])
def test_a_truncated_file_without_its_checksum_is_damaged_too(tmp_path, size):
    save(CheckpointStore(tmp_path), 1)
    path = tmp_path / "checkpoint_0_step1.pth"
    path.write_bytes(path.read_bytes()[:size])
    (tmp_path / "checkpoint_0_step1.pth.json").write_text("{")
    with pytest.raises(UserError, match="checkpoint_0_step1.pth is damaged"):
        load_checkpoint(path)


def test_where_all_are_damaged_the_error_names_them(tmp_path):
    store = CheckpointStore(tmp_path)
    for step in (1, 2):
        save(store, step)
        damage(tmp_path / f"checkpoint_0_step{step}.pth")
    with pytest.raises(UserError, match="checkpoint_0_step2.pth, checkpoint_0_step1.pth"):
        store.load_newest()


def test_a_failing_save_leaves_the_old_one_whole(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep_last=1)
    save(store, 1, value=5)
    before = names(store)

    def disk_full(state, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint_module.torch, "save", disk_full)
    for step in (1, 2):
        with pytest.raises(OSError):
            save(store, step)
    assert names(store) == before
    assert store.load_newest()[0]["weight"].tolist() == [5, 5, 5]


def write_half_and_die(state, file):
    file.write(b"half")
    file.flush()
    die()


def describe_and_die(path, description):
    write_json(path, description)
    die()


@pytest.mark.parametrize("stage, last_words", [("torch.save", write_half_and_die), ("write_json", describe_and_die)])
def test_a_kill_during_a_save_over_a_checkpoint_leaves_the_old_one(tmp_path, monkeypatch, stage, last_words):
    store = CheckpointStore(tmp_path, keep_last=1)
    save(store, 1, epoch=1, permanent=True)
    with monkeypatch.context() as patch:
        patch.setattr(f"engine.checkpoint.{stage}", last_words)
        killed_in_a_child(lambda: save(store, 2, epoch=1, permanent=True))
    state, _ = store.load_newest()
    assert (state["step"], state["weight"].tolist()) == (1, [1, 1, 1])
    # The next save goes through and removes what the killed one left.
    save(store, 3, epoch=1, permanent=True)
    assert names(store) == ["checkpoint_1.pth", "checkpoint_1.pth.json"]
    assert newest_step(store) == 3


def test_a_checkpoint_copied_without_its_description_is_used_and_never_removed(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=1)
    save(store, 1)
    os.remove(tmp_path / "checkpoint_0_step1.pth.json")
    assert newest_step(store) == 1
    save(store, 2)
    save(store, 3)
    assert newest_step(store) == 3
    assert (tmp_path / "checkpoint_0_step1.pth").exists()


def test_numpys_scalars_are_read_as_published_checkpoints_hold_them(tmp_path):
    scalars = {"f8": np.float64(0.5), "f4": np.float32(0.25), "i8": np.int64(3), "b1": np.bool_(True)}
    torch.save(scalars, tmp_path / "new.pth")
    # NumPy 1 gave the same function another address.
    torch.save(None, tmp_path / "old.pth")
    repack(tmp_path / "old.pth", pickle.dumps(scalars, protocol=2).replace(b"numpy._core", b"numpy.core"))
    for name in ("new.pth", "old.pth"):
        assert load_checkpoint(tmp_path / name) == scalars


def repack(path, pickled):
    """Put another pickle into a file of torch.save."""
    with zipfile.ZipFile(path) as source:
        entries = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for name, content in entries.items():
            target.writestr(name, pickled if name.endswith("data.pkl") else content)


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("proof_that_code_ran",)


@pytest.mark.parametrize("content", [Malicious(), np.zeros(3), nn.Linear(1, 1)], ids=["code", "array", "module"])
def test_nothing_but_tensors_numbers_and_text_is_read(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    torch.save({"state": content}, tmp_path / "published.pth")
    with pytest.raises(UserError, match="published.pth holds more than tensors"):
        load_checkpoint(tmp_path / "published.pth")
    assert os.listdir(tmp_path) == ["published.pth"]


def test_a_missing_checkpoint_names_the_file_and_the_key(tmp_path):
    with pytest.raises(UserError, match="no checkpoint at .*x.pth.*checkpoint.resume_path"):
        load_checkpoint(tmp_path / "x.pth")


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "is_main", lambda: False)
    save(CheckpointStore(tmp_path / "checkpoints"), 1)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("options", [{"template": "x.pth"}, {"template": "{}_{}.pth"}, {"keep_last": 0}])
def test_a_store_that_could_not_keep_its_files_apart_is_refused(tmp_path, options):
    with pytest.raises(ValueError, match="template"):
        CheckpointStore(tmp_path, **options)


def test_batch_norm_statistics_are_gathered_and_restored_and_other_buffers_are_not():
    def network(value):
        net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
        net.register_buffer("queue", torch.full((4,), value))
        net[1].running_mean.fill_(value)
        return net

    (buffers,) = gather_buffers(network(3.0))
    assert set(buffers) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    other = network(0.0)
    restore_buffers(other, [buffers])
    assert other[1].running_mean.tolist() == [3, 3] and other.queue.tolist() == [0, 0, 0, 0]


def test_statistics_of_another_number_of_ranks_are_shared_out_with_a_warning(caplog):
    net = nn.Sequential(nn.BatchNorm1d(1))
    saved = [{**gather_buffers(net)[0], "0.running_mean": torch.tensor([float(r)])} for r in range(3)]
    with caplog.at_level(logging.WARNING):
        restore_buffers(net, saved)
    assert net[0].running_mean.item() == 0.0 and "3 processes are shared out to 1" in caplog.text


def test_an_exported_backbone_loads_into_torchvisions_network(tmp_path):
    trunk = torchvision.models.resnet18().to(memory_format=torch.channels_last).half()
    export_backbone(trunk, tmp_path / "backbone.pth")
    state = torch.load(tmp_path / "backbone.pth", weights_only=True)
    assert all(t.dtype in (torch.float32, torch.int64) and t.is_contiguous() for t in state.values())
    network = torchvision.models.resnet18()
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert missing == ["fc.weight", "fc.bias"] and not unexpected
    assert torch.equal(network.conv1.weight, trunk.conv1.weight.float())
