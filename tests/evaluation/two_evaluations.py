"""An evaluation in two processes, and what it found; `python two_evaluations.py FOLDER PROGRAM ARGUMENT...` is one of them."""

import utils.threads  # noqa: F401  isort: skip  before torch

import importlib
import json
import os
import sys
from pathlib import Path

import torch

from tests.utils.two_ranks import run_two_ranks


def metrics_of_two(folder: Path, program: str, *arguments: str) -> dict[str, float]:
    """The metrics of evaluation.PROGRAM with these arguments, found by two gloo processes on the CPU."""
    run_two_ranks(__file__, folder, program, *arguments)
    return json.loads((Path(arguments[arguments.index("--out") + 1]) / "results.json").read_text())["metrics"]


def main() -> None:
    folder, program, *arguments = sys.argv[1:]
    code = importlib.import_module(f"evaluation.{program}").main(arguments)
    assert code == 0, code
    torch.save({}, Path(folder) / f"{os.environ['RANK']}.pth")


if __name__ == "__main__":
    main()
