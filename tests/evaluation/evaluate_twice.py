"""What each of two processes evaluates for test_two_processes.py; started by tests.utils.two_ranks.run_two_ranks."""

import os
import sys
from pathlib import Path

import torch

from evaluation import knn, object_segmentation, svm

PROGRAMS = {"knn": knn, "svm": svm, "object_segmentation": object_segmentation}


def main(folder: Path, out: str) -> None:
    """FOLDER/NAME.yaml of every program; results in FOLDER/OUT/NAME."""
    codes = {}
    for name, program in PROGRAMS.items():
        codes[name] = program.main(["--cfg", str(folder / f"{name}.yaml"), "--out", str(folder / out / name)])
    # A program has left its group as it ends.
    torch.save(codes, folder / f"{os.environ.get('RANK', 0)}.pth")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
