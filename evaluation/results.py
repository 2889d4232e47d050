"""What an evaluation found: results.json in its folder, and tables of one or several."""

import argparse
import hashlib
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from evaluation.settings import Evaluator
from utils.distributed import is_main, world_size
from utils.errors import UserError
from utils.files import read_json, write_json

RESULTS = "results.json"


def finish(
    folder: Path,
    program: str,
    config: Evaluator,
    arguments: argparse.Namespace,
    metrics: Mapping[str, float],
    *,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write results.json and print the table; rank 0 alone does.

    Args:
        folder: the evaluation's.
        program: such as "segmentation".
        arguments: the command line; its config's name is the protocol's.
        metrics: what the table shows, as shares in [0, 1].
        details: numbers that the table leaves out, such as those of each class; JSON takes them.
    """
    if not is_main():
        return
    entry = {
        "program": program,
        "protocol": Path(arguments.cfg).stem,
        "max_steps": arguments.max_steps,
        "weights": config.model.weights,
        "weights_sha256": _checksum(config.model.weights),
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
    write_json(folder / RESULTS, entry)
    print(f"\n{format_results([entry])}\n\n{folder / RESULTS}")


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


def format_results(entries: Sequence[Mapping[str, Any]]) -> str:
    """A table of evaluations: one row a program, protocol and metric, one column for each of the weights."""
    columns = list(dict.fromkeys(_name(entry) for entry in entries))
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for entry in entries:
        for metric, value in entry["metrics"].items():
            rows.setdefault((f"{entry['program']} {entry['protocol']}", metric), {})[_name(entry)] = value
    table = [["protocol", "metric", *columns]]
    table += [
        [protocol, metric, *(f"{100 * values[column]:.2f}" if column in values else "-" for column in columns)]
        for (protocol, metric), values in rows.items()
    ]
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


def _checksum(weights: str | None) -> str | None:
    path = weights and (Path(weights) / "backbone.pth" if Path(weights).is_dir() else Path(weights))
    if not path or not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
