"""What every benchmark's command shares: its options, the points it measures, its lines and its JSON."""

import argparse
import datetime
import functools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from utils.cli import positive
from utils.cores import available_cores, processor_name
from utils.errors import UserError
from utils.files import atomic_write_bytes
from utils.marks import renew_marked

Point = dict[str, int]


class Axis(NamedTuple):
    """A number that a benchmark can vary.

    Attributes:
        name: of the option, and of the column in JSON.
        default: where it stands while others vary; None where a command finds that out for itself, before it asks for points.
        values: what `--sweep NAME` goes through when it is given no values.
        help: what it counts.
        least: the smallest that it can be.
    """

    name: str
    default: int | None
    values: tuple[int, ...]
    help: str
    least: int = 1


def make_parser(description: str, axes: Sequence[Axis] = ()) -> argparse.ArgumentParser:
    """The options of every benchmark, and one for each axis."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for axis in axes:
        shown = axis.help if axis.default is None else f"{axis.help} ({axis.default})"
        kind = functools.partial(_whole, least=axis.least)
        parser.add_argument(f"--{axis.name}", type=kind, default=axis.default, help=shown)
    if axes:
        parser.add_argument(
            "--sweep",
            nargs="+",
            action="append",
            default=[],
            metavar=("AXIS", "VALUE"),
            help=f"vary {', '.join(axis.name for axis in axes)}, the rest as given; may be repeated",
        )
    # For Report: a plot needs to know which columns are axes.
    parser.set_defaults(axes=[axis.name for axis in axes])
    parser.add_argument("--threads", type=positive, default=available_cores(), help="of the processor (all cores)")
    parser.add_argument("--device", type=_device, default=torch.device("cpu"), help="cpu, cuda")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser


def _whole(text: str, *, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number from {least}")
    return int(text)


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text}: must be cpu, cuda or cuda:1") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(f"{text}: torch finds {torch.cuda.device_count()} GPUs here")
    return device


def points(arguments: argparse.Namespace, axes: Sequence[Axis]) -> Iterator[Point]:
    """The points to measure: the one that the options give, or those of each sweep in turn, none of them twice.

    Raises:
        UserError: a sweep names no axis, or a value is no whole number or too small.
    """
    given = {axis.name: getattr(arguments, axis.name) for axis in axes}
    if not arguments.sweep:
        yield given
    known = {axis.name: axis for axis in axes}
    # Known before the first is measured.
    for name, *words in arguments.sweep:
        if name not in known:
            raise UserError(f"--sweep {name}: this benchmark varies {', '.join(known)}")
        if not all(word.isdecimal() and int(word) >= known[name].least for word in words):
            raise UserError(f"--sweep {name} {' '.join(words)}: values must be whole numbers from {known[name].least}")
    done = []
    for name, *words in arguments.sweep:
        for value in map(int, words) if words else known[name].values:
            point = given | {name: value}
            if point not in done:
                yield point
            done.append(point)


def check_sizes(found: Sequence[Point], multiple: int) -> None:
    """Raises UserError where a point's `size` gives no whole grid of cells of `multiple` pixels."""
    for point in found:
        if point["size"] % multiple:
            raise UserError(f"--size {point['size']}: must be a multiple of {multiple}")


def renewed(page: Path, mark: str, text: str) -> str:
    """What a page is with `text` between its marks.

    Raises:
        UserError: it cannot be read, or has no such marks.
    """
    try:
        return renew_marked(page.read_text(encoding="utf-8"), mark, lambda match: text)
    except (OSError, ValueError) as error:
        raise UserError(f"--write {page}: {error}") from error


class Report:
    """Prints lines as they are measured, and writes their figures when the command ends.

    Args:
        command: the benchmark's name, such as "kmeans".
        arguments: of `make_parser`; the number of threads is set.
    """

    def __init__(self, command: str, arguments: argparse.Namespace):
        torch.set_num_threads(arguments.threads)
        self._path, self.rows = arguments.json, []
        self.device = arguments.device
        self._head = {
            "benchmark": command,
            "axes": arguments.axes,
            "date": datetime.date.today().isoformat(),
            "processor": processor_name(),
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "threads": arguments.threads,
            "torch": torch.__version__,
            "load_before": round(os.getloadavg()[0], 2),
        }
        print(
            f"{self._head['processor']}, {self._head['device']}, {arguments.threads} threads, torch {torch.__version__}; "
            f"load of the machine before: {self._head['load_before']}",
            flush=True,
        )

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, error: type | None, *rest: Any) -> None:
        # What was measured before an error or Ctrl-C is not lost.
        if self._path is not None and (self.rows or error is None):
            text = json.dumps(self._head | {"rows": self.rows}, indent=1)
            atomic_write_bytes(self._path, (text + "\n").encode())

    def line(self, text: str, **row: Any) -> None:
        """Print a line; its figures, if any, are a row of the JSON: `what` is measured, where on the axes, `*_ms`, `ratio`..."""
        print(text, flush=True)
        if row:
            self.rows.append(row)


def describe(point: Point) -> str:
    """A point's place on its axes: "batch 32, size 224"."""
    return ", ".join(f"{name} {value}" for name, value in point.items())
