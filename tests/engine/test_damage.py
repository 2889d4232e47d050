"""Checkpoints, label maps and photographs damaged at every place: a message that names the file, or the same content."""

import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data.images import UnreadableImage, read_image
from data.label_maps import LabelMapError, read_label_map, write_label_map
from engine.checkpoint import CheckpointStore, load_checkpoint, save_state
from utils.errors import StorageError, UserError, explains_storage

STEP = 1024


@pytest.fixture(scope="module")
def state():
    generator = torch.Generator().manual_seed(0)
    return {
        "method": {f"layer{n}.weight": torch.randn(64, 16, generator=generator) for n in range(8)},
        "name": "é" * 99,
    }


def same(found: dict, state: dict) -> bool:
    return all(torch.equal(found["method"][name], value) for name, value in state["method"].items())


def damages(data: bytes):
    """Cut at every kilobyte, and one bit turned in every kilobyte."""
    for at in range(0, len(data), STEP):
        yield f"cut at {at}", data[:at]
        turned = bytearray(data)
        place = at + (at // STEP * 397) % min(STEP, len(data) - at)
        turned[place] ^= 1 << at // STEP % 8
        yield f"turned at {place}", bytes(turned)


def test_a_checkpoint_damaged_anywhere_is_refused_by_its_checksum(tmp_path, state):
    store = CheckpointStore(tmp_path)
    store.save(state, step=1, epoch=1, permanent=True)
    (path,) = store.paths()
    data = path.read_bytes()
    assert len(data) > 20 * STEP
    for how, damaged in damages(data):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged.*older") as caught:
            load_checkpoint(path)
        assert str(path) in str(caught.value), how
    path.write_bytes(data)
    assert same(load_checkpoint(path), state)


def test_weights_without_a_checksum_are_refused_or_whole(tmp_path, state):
    """torch's files have checksums of their own, but not over every byte."""
    path = tmp_path / "backbone.pth"
    save_state(state, path)
    data, refused = path.read_bytes(), 0
    for how, damaged in damages(data):
        path.write_bytes(damaged)
        try:
            found = load_checkpoint(path)
        except UserError as error:
            refused += 1
            assert str(path) in str(error), how
            continue
        assert how.startswith("turned") and same(found, state), how
    assert refused > 1.5 * len(data) / STEP


def test_a_label_map_damaged_anywhere_is_refused_or_whole(tmp_path):
    labels = np.random.default_rng(0).integers(0, 250, (120, 160)).astype(np.uint8)
    path = tmp_path / "a.png"
    write_label_map(path, labels)
    whole, data = read_label_map(path), path.read_bytes()
    assert len(data) > 10 * STEP
    for how, damaged in damages(data):
        path.write_bytes(damaged)
        try:
            found = read_label_map(path)
        except LabelMapError as error:
            assert str(path) in str(error), how
            continue
        assert np.array_equal(found, whole), how


def test_a_jpeg_cut_anywhere_is_refused_and_damaged_anywhere_does_no_harm(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3)).astype(np.uint8)
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    path = tmp_path / "a.jpg"
    assert len(data) > 10 * STEP
    for how, damaged in damages(data):
        path.write_bytes(damaged)
        try:
            found = read_image(path)
        except UnreadableImage as error:
            assert str(path) in str(error), how
            continue
        # A JPEG has no checksum: a turned bit is another picture.
        assert how.startswith("turned") and found.dtype == np.uint8 and found.ndim == 3, how


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and os.geteuid() == 0
    if not mounted or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]).returncode:
        pytest.skip("a small disk takes root and the right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_leaves_the_checkpoint_before_and_says_what_to_do(small_disk, state):
    store = CheckpointStore(small_disk)
    store.save(state, step=1, epoch=1, permanent=True)
    (small_disk / "filler").write_bytes(bytes(240 * 1024 - sum(p.stat().st_size for p in small_disk.iterdir())))
    with pytest.raises(StorageError, match="No space left on device.*make room"), explains_storage():
        store.save(state, step=2, epoch=2, permanent=True)
    assert not list(small_disk.glob(".tmp-*"))
    found, path = store.load_newest()
    assert found["step"] == 1 and same(found, state)
    (small_disk / "filler").unlink()
    store.save(state, step=2, epoch=2, permanent=True)
    assert store.load_newest()[0]["step"] == 2


def test_a_folder_that_may_not_be_written_is_named(small_disk, state):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StorageError, match="Read-only file system"), explains_storage():
        CheckpointStore(small_disk / "checkpoints").save(state, step=1, epoch=1, permanent=True)


def test_other_errors_of_files_are_left_as_they_are():
    with pytest.raises(FileNotFoundError), explains_storage():
        Path("/nowhere/at/all").read_bytes()
