"""What the tests of ORL's main share: a tiny config, and what its stages leave."""

from pathlib import Path

import orl_main
from tests.mains.runs import TINY_MODEL, make_pictures, write_own_config

CONFIG = {
    "model": TINY_MODEL,
    "data": {"resize_size": 32, "patch_size": 16, "data_workers": 0, "train_batch_size": 8},
    "proposals": {"min_size": 10, "top_n": 12},
    "neighbours": {"count": 3},
    "pairs": {"patch_size": 16, "share": 0.2},
    "optimizer": {"type": "sgd", "base_lr": 1.0, "total_epochs": 3, "stage1_epochs": 2, "warmup_epochs": 1},
    "log": {"log_step": 1, "num_pictures": 2},
}
STAGE_2 = {
    "boxes.npy",
    "boxes_offsets.npy",
    "neighbours.npy",
    "pairs.npy",
    "pairs_offsets.npy",
    "done.json",
    "meta.json",
}


def make_folder(folder: Path) -> None:
    """27 pictures below images/train, and a config beside them."""
    make_pictures(folder)
    write_own_config(folder, CONFIG)


def train(folder: Path, out: str, *arguments: str) -> int:
    return orl_main.main(["--cfg", str(folder / "own.yaml"), "--out", str(folder / out), *arguments])


def found(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "stage2").iterdir() if path.name in STAGE_2}
