"""What each of two processes evaluates for test_two_processes.py; started by tests.utils.two_ranks.run_two_ranks."""

import utils.threads  # noqa: F401  isort: skip  before torch

import sys
from pathlib import Path

import torch

from evaluation import classification, detection, knn, object_segmentation, svm
from utils import cli, distributed, launch

PROGRAMS = {
    "classification": classification,
    "detection": detection,
    "knn": knn,
    "svm": svm,
    "object_segmentation": object_segmentation,
}
# Those that train take half the batch where two processes share it.
TRAINED = ("classification", "detection")


def main(folder: Path, out: str, batch: str) -> None:
    """FOLDER/NAME.yaml of every program, with so many training images a process; results in FOLDER/OUT/NAME."""
    codes = {}
    for name, program in PROGRAMS.items():
        arguments = ["--cfg", str(folder / f"{name}.yaml"), "--out", str(folder / out / name), "--resume", "auto"]
        if name in TRAINED:
            arguments += ["--set", f"data.train_batch_size={batch}"]
        codes[name] = program.main(arguments)
    torch.save(codes, folder / f"{distributed.rank()}.pth")


if __name__ == "__main__":
    # One group for all: a new one's first process could still be found at the address of the last one's.
    cli.shutdown = lambda: None
    main(Path(sys.argv[1]), *sys.argv[2:])
    distributed.barrier()
    launch.shutdown()
