"""Processes that differ are refused, by name, before anything is trained."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mains.runs import TINY_MODEL, make_pictures, write_own_config
from tests.paths import ROOT
from tests.utils.two_ranks import two_rank_environments
from utils import agreement
from utils.errors import DataError, UserError

CONFIG = {
    "model": TINY_MODEL | {"region_level": "c4"},
    "data": {"resize_size": 32, "superpixel_size": 48, "slic_segments": 16, "data_workers": 0, "train_batch_size": 4},
    "clustering": {"scheduler": {"type": "constant", "epochs": [0], "values": [4]}, "images_per_kmeans": 4},
    "optimizer": {"total_epochs": 2, "warmup_epochs": 1},
}


class Listing:
    packing = ""

    def __init__(self, root: str, names: str):
        self.root, self.listing_hash, self._names = Path(root), f"hash of {names}", names

    def __len__(self) -> int:
        return len(self._names)


@pytest.fixture
def second_rank(monkeypatch):
    """What rank 1 says instead of what rank 0 says, as rank 0 hears it."""

    def say(what):
        monkeypatch.setattr(agreement, "gather_objects", lambda own: [own, ("gpu2", what)])

    return say


def test_the_same_is_accepted(second_rank):
    second_rank((3, "hash of abc", ""))
    agreement.check_listing(Listing("/a", "abc"), lambda: None)


def test_a_machine_with_other_images_is_named(second_rank):
    second_rank((2, "hash of ab", ""))
    with pytest.raises(DataError, match=r"(?s)Rank 0 sees 3 in /a.*rank 1 on gpu2: 2 images.*shared folder"):
        agreement.check_listing(Listing("/a", "abc"), lambda: None)


def test_a_machine_with_the_same_images_in_other_shards_is_named(second_rank):
    second_rank((3, "hash of abc", " in shards 12"))
    with pytest.raises(DataError, match="rank 1 on gpu2: 3 images, listing hash of abc in shards 12"):
        agreement.check_listing(Listing("/a", "abc"), lambda: None)


def test_a_machine_without_images_is_named(second_rank):
    second_rank((0, "", ": /a: no such folder"))
    with pytest.raises(DataError, match="rank 1 on gpu2: 0 images, listing none: /a: no such folder"):
        agreement.check_listing(Listing("/a", "abc"), lambda: None)


@pytest.mark.slow
def test_another_config_of_one_process_stops_both(tmp_path):
    make_pictures(tmp_path)
    write_own_config(tmp_path, CONFIG)
    both = []
    for number, environment in enumerate(two_rank_environments()):
        command = [sys.executable, "r2o_main.py", "--cfg", str(tmp_path / "own.yaml"), "--out", str(tmp_path / "run")]
        command += ["--set", f"optimizer.base_lr={0.1 + number}"]
        both.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=100)[1] for process in both]
    assert [process.returncode for process in both] == [2, 2]
    assert "rank 1 on" in said[0] and "optimizer.base_lr: 0.1 -> 1.1" in said[0]
    assert not (tmp_path / "run").exists()


def test_other_code_and_another_torch_are_named(monkeypatch):
    from r2o_config import R2OConfig

    config = R2OConfig(data={"image_dir": "x"})
    monkeypatch.setattr(
        agreement,
        "gather_objects",
        lambda own: [own, ("gpu2", {**own[1], "code": "other"}), ("gpu3", {**own[1], "torch": "2.6"})],
    )
    with pytest.raises(UserError, match=r"(?s)rank 1 on gpu2: code other, not .*rank 2 on gpu3: torch 2.6, not "):
        agreement.check_agreement(config)
