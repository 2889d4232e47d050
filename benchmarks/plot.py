"""Plots of what benchmarks measured, a PNG for each benchmark and each axis that was swept.

    python -m benchmarks.plot FILE.json [FILE.json ...] [--out docs/performance]

The files are what --json of the commands here writes; several of one benchmark are drawn together. A plot has a panel for each
unit: milliseconds, ratio, images a second, share, MB. Colours tell what was measured, dashes ours from the baseline.
"""

import argparse
import io
import json
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, PercentFormatter, StrMethodFormatter
from PIL import Image

from tools.pictures import save_flat
from utils.cli import shows_errors
from utils.errors import UserError

_DOTS, _COLOURS = 110, 128  # per inch, and of a PNG's palette
_HUES = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
    "#a89000",
    "#7b3fa0",
    "#8c8c8c",
    "#7f2704",
)
_DASHES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 4)), (0, (8, 4)))
_AXES = {"size": "side of an image, px", "batch": "batch", "clusters": "K", "workers": "worker processes"}
# In the order in which panels stand; the first whose name a column has, in whole or with a prefix or suffix.
_UNITS = {
    "ms": "milliseconds",
    "seconds": "seconds",
    "ratio": "ratio",
    "images_per_second": "images/s",
    "share": "share",
    "mb": "MB",
}
# Drawn as whole lines.
_FIRST = ("ours", "whole", "")


class Line(NamedTuple):
    """A figure against an axis."""

    unit: str
    name: str  # what was measured
    part: str  # such as "ours", "baseline"
    places: list[int]
    values: list[float]


def read(path: Path) -> dict[str, Any]:
    """A command's JSON."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        # What is drawn is looked up here once, so that another kind of file is known by name.
        return {key: document[key] for key in ("benchmark", "axes", "rows", "processor", "device", "threads", "date")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not what --json of a benchmark writes: {error!r}") from error


def lines_of(documents: Sequence[dict[str, Any]], axis: str) -> list[Line]:
    """Every figure that was measured at two values of the axis or more, the other axes standing still.

    Parts are drawn where no more than one thing was taken apart.
    """
    found: dict[tuple, dict[int, list[float]]] = {}
    devices = {_device(document) for document in documents}
    rows = [row for document in documents for row in document["rows"] if row.get(axis) is not None]
    has_parts = len({row.get("method") for row in rows if "part" in row}) == 1
    # What all have in common tells none from another.
    common = {
        name for name in ("backbone", "precision", "compile") if len({row.get(name, "") for row in rows} - {""}) < 2
    }
    for document in documents:
        for row in document["rows"]:
            if row.get(axis) is None or "part" in row and not has_parts:
                continue
            still = {name: row[name] for name in document["axes"] if name in row and name != axis}
            left_out = common | {"what"} if "part" in row else common
            words = [value for name, value in row.items() if isinstance(value, str) and name not in left_out]
            words += [_device(document)] * (len(devices) > 1)
            for column, value in row.items():
                if isinstance(value, float) and (unit := _unit(column)):
                    part = column.replace(unit, "").strip("_").replace("_", " ")
                    key = unit, ", ".join(words), part, tuple(still.items())
                    found.setdefault(key, {}).setdefault(row[axis], []).append(value)
    swept = {key: values for key, values in found.items() if len(values) > 1}
    stills = {name: {still for _, other, _, still in swept if other == name} for _, name, _, _ in swept}
    lines = []
    for (unit, name, part, still), values in swept.items():
        if len(stills[name]) > 1:
            name += f" ({', '.join(f'{axis} {value}' for axis, value in still)})"
        places = sorted(values)
        lines.append(Line(unit, name, part, places, [statistics.median(values[place]) for place in places]))
    return lines


def _device(document: dict[str, Any]) -> str:
    threads = f", {document['threads']} threads" if document["device"] == "cpu" else ""
    return f"{document['processor'] if document['device'] == 'cpu' else document['device']}{threads}"


def _unit(column: str) -> str | None:
    fits = (unit for unit in _UNITS if column == unit or column.startswith(f"{unit}_") or column.endswith(f"_{unit}"))
    return next(fits, None)


def draw(title: str, axis: str, lines: Sequence[Line]) -> Figure:
    """A panel for each unit, side by side, with one legend below."""
    units = [unit for unit in _UNITS if any(line.unit == unit for line in lines)]
    names = list(dict.fromkeys(line.name for line in lines))
    parts = sorted(dict.fromkeys(line.part for line in lines), key=lambda part: part not in _FIRST)
    hues = {name: _HUES[number % len(_HUES)] for number, name in enumerate(names)}
    dashes = {part: _DASHES[number % len(_DASHES)] for number, part in enumerate(parts)}
    keys = [Line2D([], [], color=hues[name], label=name) for name in names]
    if len(parts) > 1:
        keys += [Line2D([], [], color="#555555", linestyle=dashes[part], label=part or "itself") for part in parts]
    columns = max(1, min(len(units), 3))
    legend = 0.22 * math.ceil(len(keys) / columns) + 0.1
    figure = Figure(figsize=(4.0 * len(units), 3.3 + legend), dpi=_DOTS, layout="constrained")
    figure.suptitle(title, fontsize=9)
    for panel, unit in zip(figure.subplots(1, len(units), squeeze=False)[0], units):
        own = [line for line in lines if line.unit == unit]
        for line in own:
            style = {"color": hues[line.name], "linestyle": dashes[line.part]}
            panel.plot(line.places, line.values, marker="o", markersize=3, linewidth=1.3, **style)
        _scale(panel, unit, axis, own)
    figure.legend(handles=keys, loc="outside lower center", ncols=columns, fontsize=7, frameon=False)
    return figure


def _scale(panel: Axes, unit: str, axis: str, lines: Sequence[Line]) -> None:
    places = sorted({place for line in lines for place in line.places})
    values = [value for line in lines for value in line.values]
    panel.set_xlabel(_AXES.get(axis, axis))
    panel.set_title(_UNITS[unit], fontsize=9)
    panel.grid(alpha=0.3)
    panel.tick_params(labelsize=8)
    if places[0] > 0 and places[-1] >= 8 * places[0]:
        panel.set_xscale("log", base=2)
    panel.set_xticks(places, [str(place) for place in places])
    if unit != "share" and min(values) > 0 and max(values) > 12 * min(values):
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
    else:
        panel.set_ylim(0, 1.1 * max(values) or 1)
    if unit == "ratio":
        panel.axhline(1, color="#8c8c8c", linewidth=0.8)
    if unit == "share":
        panel.yaxis.set_major_formatter(PercentFormatter(1))


def plots(documents: Iterable[dict[str, Any]]) -> dict[str, Figure]:
    """BENCHMARK_AXIS -> its plot, for all that was swept."""
    benchmarks: dict[str, list[dict[str, Any]]] = {}
    for document in documents:
        benchmarks.setdefault(document["benchmark"], []).append(document)
    drawn = {}
    for name, own in benchmarks.items():
        machines = "; ".join(dict.fromkeys(f"{_device(one)}, {one['date']}" for one in own))
        for axis in dict.fromkeys(axis for one in own for axis in one["axes"]):
            if lines := lines_of(own, axis):
                drawn[f"{name}_{axis}"] = draw(f"{name}: {machines}", axis, lines)
    return drawn


def save(figure: Figure, path: Path) -> None:
    """A PNG of a few tens of kB."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    save_flat(Image.open(buffer).convert("RGB"), path, colours=_COLOURS)


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    parser.add_argument("--out", type=Path, default=Path("docs/performance"), metavar="DIR", help="(docs/performance)")
    arguments = parser.parse_args(argv)
    drawn = plots([read(path) for path in arguments.files])
    if not drawn:
        raise UserError("nothing to draw: no benchmark was measured at two values of an axis; see --sweep")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        path = arguments.out / f"{name}.png"
        save(figure, path)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
