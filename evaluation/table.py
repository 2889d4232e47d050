"""Results of several evaluations side by side: `python -m evaluation.table RUN...`, folders or their results.json."""

import argparse
import sys
from pathlib import Path

from evaluation.results import format_results, read_results
from utils.cli import shows_errors


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of evaluations, as runs/evaluation/segmentation/*")
    arguments = parser.parse_args(argv)
    print(format_results([read_results(run) for run in arguments.runs]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
