"""What an evaluation found: results.json in its folder, and tables of one or several."""

import argparse
import logging
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from evaluation.backbones import held_checksum
from evaluation.settings import Evaluator
from utils.distributed import is_main, world_size
from utils.errors import UserError
from utils.files import read_json, write_json

RESULTS = "results.json"

_log = logging.getLogger(__name__)


def finish(
    folder: Path,
    program: str,
    config: Evaluator,
    arguments: argparse.Namespace,
    metrics: Mapping[str, float],
    *,
    details: Mapping[str, Any] | None = None,
    steps: tuple[int, int] | None = None,
) -> None:
    """Write results.json and print the table; rank 0 alone does.

    What `--max_steps` ended early is no result: it goes to results_STEP.json, with a warning.

    Args:
        folder: the evaluation's.
        program: such as "segmentation".
        arguments: the command line; its config's name is the protocol's.
        metrics: what the table shows, as shares in [0, 1].
        details: numbers that the table leaves out, such as those of each class; JSON takes them.
        steps: done, and in all, of what was trained.
    """
    if not is_main():
        return
    entry = {
        "program": program,
        "protocol": Path(arguments.cfg).stem,
        "steps": steps,
        "weights": config.model.weights,
        "weights_sha256": held_checksum(folder),
        "network": config.model.network,
        "metrics": {name: float(value) for name, value in metrics.items()},
        "details": dict(details or {}),
        "config": config.model_dump(mode="json"),
        "processes": world_size(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
        },
    }
    path = folder / RESULTS
    if steps is not None and steps[0] < steps[1]:
        path = folder / f"results_{steps[0]}.json"
        _log.warning("--max_steps: %d of %d steps are done; --resume auto goes on from there", *steps)
    write_json(path, entry)
    print(f"\n{format_results([entry])}\n\n{path}")


def read_results(folder: Path) -> dict[str, Any]:
    """The results.json of an evaluation's folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / RESULTS if folder.is_dir() else folder
    try:
        entry = read_json(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; finish the evaluation with --resume auto first") from error
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); evaluate again") from error
    if not isinstance(entry, dict) or not {"program", "protocol", "weights", "metrics"} <= entry.keys():
        raise UserError(f"{path}: no results of an evaluation")
    return entry


def results_table(entries: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of a table of evaluations, in percent: one row a program, protocol and metric, one column for each of
    the weights, or for each time that they were judged by one protocol.
    """
    columns: dict[str, None] = {}
    rows: dict[tuple[str, str], dict[str, float]] = {}
    times: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        protocol, name = f"{entry['program']} {entry['protocol']}", _name(entry)
        times[protocol, name] += 1
        column = name if times[protocol, name] == 1 else f"{name} #{times[protocol, name]}"
        columns[column] = None
        for metric, value in entry["metrics"].items():
            rows.setdefault((protocol, metric), {})[column] = value
    return ["protocol", "metric", *columns], [
        [protocol, metric, *(f"{100 * values[column]:.2f}" if column in values else "-" for column in columns)]
        for (protocol, metric), values in rows.items()
    ]


def format_results(entries: Sequence[Mapping[str, Any]]) -> str:
    """`results_table` as lines of text, its columns aligned."""
    head, rows = results_table(entries)
    table = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = [
        "  ".join(_align(cell, width, place) for place, (cell, width) in enumerate(zip(row, widths))) for row in table
    ]
    return "\n".join(
        [lines[0].rstrip(), "  ".join("-" * width for width in widths), *(line.rstrip() for line in lines[1:])]
    )


def _align(cell: str, width: int, place: int) -> str:
    return cell.ljust(width) if place < 2 else cell.rjust(width)


def _name(entry: Mapping[str, Any]) -> str:
    if not entry["weights"]:
        return "untrained"
    return entry["weights"] + (" (target)" if entry.get("network") == "target" else "")
