"""Results of several evaluations side by side: `python -m evaluation.table RUN...`, folders or their results.json.

Those of several that have no results yet are named and left out.
"""

import argparse
import logging
import sys
from pathlib import Path

from evaluation.results import format_results, read_results
from utils.cli import shows_errors
from utils.errors import UserError

_log = logging.getLogger(__name__)


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of evaluations, as runs/evaluation/segmentation/*")
    arguments = parser.parse_args(argv)
    entries = []
    for run in arguments.runs:
        try:
            entries.append(read_results(run))
        except UserError as error:
            if len(arguments.runs) == 1:
                raise
            _log.warning("%s", error)
    if not entries:
        raise UserError("none of these has results")
    print(format_results(entries))
    return 0


if __name__ == "__main__":
    sys.exit(main())
