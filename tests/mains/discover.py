"""Run ORL's second stage by FOLDER/own.yaml as one of several processes; nothing to compare ends up in FOLDER/RANK.pth."""

import sys
from pathlib import Path

import torch

import orl_main
from utils.distributed import rank
from utils.launch import launch


def main(folder: Path) -> None:
    launch(None)
    place = rank()
    assert orl_main.main(["--cfg", str(folder / "own.yaml"), "--out", str(folder / "run"), "--stage", "2"]) == 0
    torch.save({}, folder / f"{place}.pth")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
