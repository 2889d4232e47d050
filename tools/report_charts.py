"""The charts and tables of `tools.report`, as plain lists that its page draws."""

import re
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tools.report_data import RunData, loss_names, number, read_part, thin

# Of one chart, all its runs together; more would make the page slow, and no screen shows them.
_POINTS = 8000
_POINTS_OF_A_LINE = (200, 2000)
_TIME = ("optimiser steps", "epochs")


class Style(NamedTuple):
    """How a number over time is shown.

    smooth: it is noisy, so that the page may smooth it.
    stepped: a value holds from one step to another.
    log: on a logarithmic scale, unless the page's reader switches.
    """

    section: str
    title: str
    unit: str
    smooth: bool = True
    stepped: bool = False
    log: bool = False


_STYLES = {
    "total_loss": Style("Training", "Total loss", "loss"),
    "learning_rate": Style("Schedules", "Learning rate", "rate", smooth=False),
    "target_momentum": Style("Schedules", "Momentum of the target network", "momentum", smooth=False),
    "clusters": Style("Schedules", "K of the K-means (9999: none)", "clusters", smooth=False, stepped=True, log=True),
    "gradient_norm": Style("Training", "Gradient norm", "L2 norm"),
    "images_per_second": Style("Throughput", "Images a second", "images/s"),
    "data_wait_share": Style("Throughput", "Time spent waiting for data", "share of the time"),
    "step_seconds": Style("Throughput", "Time of an optimiser step", "s"),
    "gpu_memory_gib": Style("Throughput", "Most GPU memory in use", "GiB"),
}
_PROBE_UNITS = {
    "segmentation mIoU": "mIoU, 0 to 1",
    "region accuracy": "share of regions",
    "feature spread": "0 collapsed, 1 even",
}
_MASK_UNITS = {
    "best_iou": ("Best IoU of each object", "IoU, 0 to 1"),
    "boundary_f": ("Boundary F", "F, 0 to 1"),
    "ari": ("Adjusted Rand index", "ARI, 1 the same"),
    "labels_per_image": ("Labels of an image", "labels"),
}


def metric_charts(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """A chart for each number that a run logged: the losses first, then those known here, then the method's own."""
    losses = [loss_names(run.rows) for run in runs]
    names = {name: None for run in runs for row in run.rows for name in row if name not in ("step", "epoch")}
    # A loss that stands alone is the total.
    parts = {name: None for own in losses for name in own if len(own) > 1}
    alone = {name for own in losses if len(own) == 1 for name in own} - parts.keys()
    ordered = ["total_loss", *parts, *_STYLES, *names]
    limit = min(max(_POINTS // max(1, len(runs)), _POINTS_OF_A_LINE[0]), _POINTS_OF_A_LINE[1])
    charts = []
    for name in dict.fromkeys(name for name in ordered if name in names and name not in alone):
        words = _words(name)
        style = _STYLES.get(name) or (
            Style("Training", f"{words}, as weighted", "loss") if name in parts else Style("Training", words, words)
        )
        charts.append(_chart(name, style, _TIME, _lines([run.rows for run in runs], name, limit)))
    return charts


def _words(name: str) -> str:
    return (name[:1].upper() + name[1:]).replace("_", " ")


def _lines(logs: Sequence[Sequence[dict[str, Any]]], name: str, limit: int) -> list[dict[str, Any]]:
    lines = []
    for place, rows in enumerate(logs):
        points = [[row["step"], number(row.get("epoch")), number(row[name])] for row in rows if name in row]
        if points:
            lines.append({"run": place, "points": thin(points, limit), "of": len(points)})
    return lines


def _chart(
    name: str, style: Style, axes: tuple[str, str], lines: list[dict[str, Any]], *, marked: bool = False
) -> dict[str, Any]:
    return style._asdict() | {"id": name, "axes": axes, "lines": lines, "marked": marked}


def probe_charts(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """A chart for each score of `tools.probe RUN --history`.

    Raises:
        UserError: as `read_part`.
    """
    histories = [
        sorted(
            (one for one in read_part(run, "probe_history.json", list) if number(one.get("step")) is not None),
            key=lambda one: one["step"],
        )
        for run in runs
    ]
    names = {name: None for history in histories for one in history for name in one}
    charts = []
    for name in names:
        lines = _lines(histories, name, _POINTS_OF_A_LINE[1])
        # What the tool notes beside the scores, such as a file's checksum, is no number.
        if name in ("step", "epoch") or all(point[2] is None for line in lines for point in line["points"]):
            continue
        style = Style("Probes of frozen features", _words(name), _PROBE_UNITS.get(name, name), smooth=False)
        charts.append(_chart(f"probe {name}", style, _TIME, lines, marked=True))
    return charts


def mask_charts(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Charts of mask_quality.json: by generation, or by epoch where a run's regions were kept so.

    Raises:
        UserError: as `read_part`.
    """
    charts = []
    for kind, axis in (("gen", "generation"), ("epoch", "epoch")):
        found = [(place, _numbered(read_part(run, "mask_quality.json", dict), kind)) for place, run in enumerate(runs)]
        for name, (title, unit) in _MASK_UNITS.items():
            lines = [
                {
                    "run": place,
                    "points": [[at, at, number(entry.get(name))] for at, _, entry in entries],
                    "names": [masks for _, masks, _ in entries],
                    "of": len(entries),
                }
                for place, entries in found
                if entries
            ]
            if lines:
                style = Style("Quality of masks", f"{title}, by {axis}", unit, smooth=False)
                charts.append(_chart(f"masks {kind} {name}", style, (axis, axis), lines, marked=True))
    return charts


def _numbered(quality: dict[str, dict], kind: str) -> list[tuple[int, str, dict]]:
    """(number, name, entry) of masks called KIND_0001 and the like; before the first, what a run began with."""
    numbers = {name: re.fullmatch(rf"{kind}_(\d+)", name) for name in quality}
    entries = [(int(match[1]), name, quality[name]) for name, match in numbers.items() if match]
    if entries:
        first = min(entries)[0]
        entries += [(first - 1, name, quality[name]) for name in quality if not re.fullmatch(r"(gen|epoch)_\d+", name)][
            :1
        ]
    return sorted(entries, key=lambda entry: entry[0])


def run_table(runs: Sequence[RunData]) -> list[list[str]]:
    """[name, state, steps, epochs, time, images/s, loss, folder] of each run."""
    return [[run.name, _state(run), *_figures(run), str(run.folder)] for run in runs]


RUN_HEAD = ["run", "state", "steps", "epochs", "training time", "images/s, median", "last total loss", "folder"]


def _state(run: RunData) -> str:
    epoch = number(run.rows[-1].get("epoch")) if run.rows else None
    total = _total_epochs(run)
    # What `--max_steps` ended has them, too.
    left = epoch is not None and total is not None and epoch < total
    if not left and any((run.folder / name).is_file() for name in ("backbone.pth", "done.json")):
        return "finished"
    metrics = run.folder / "metrics.jsonl"
    if not run.rows:
        return "nothing logged yet"
    return time.strftime("not finished, last line %Y-%m-%d %H:%M", time.localtime(metrics.stat().st_mtime))


def _total_epochs(run: RunData) -> float | int | None:
    return number((run.config.get("optimizer") or {}).get("total_epochs"))


def _figures(run: RunData) -> list[str]:
    if not run.rows:
        return ["-"] * 5
    last, total = run.rows[-1], _total_epochs(run)
    epochs = "-" if number(last.get("epoch")) is None else f"{last['epoch']:.4g}" + (f" of {total}" if total else "")
    seconds, before = 0.0, 0
    for row in run.rows:
        seconds += (number(row.get("step_seconds")) or 0) * (row["step"] - before)
        before = row["step"]
    speeds = [row["images_per_second"] for row in run.rows if number(row.get("images_per_second")) is not None]
    return [
        str(last["step"]),
        epochs,
        _duration(seconds) if seconds else "-",
        f"{statistics.median(speeds):.4g}" if speeds else "-",
        _shown(last.get("total_loss"), "{:.4g}".format),
    ]


def _duration(seconds: float) -> str:
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def _shown(value: Any, form: Callable[[float], str]) -> str:
    return "-" if number(value) is None else form(value)


PROBE_HEAD = ["run", "probe", "pretrained", "untrained", "chance"]


def probe_table(runs: Sequence[RunData]) -> list[list[str]]:
    """[run, probe, pretrained, untrained, chance] of each probes.json; mean and, in brackets, lowest to highest.

    Raises:
        UserError: as `read_part`.
    """
    return [
        [
            run.name,
            name,
            _scores(row.get("pretrained")),
            _scores(row.get("untrained")),
            _shown(row.get("chance"), "{:.3f}".format),
        ]
        for run in runs
        for name, row in read_part(run, "probes.json", dict).items()
    ]


def _scores(value: Any) -> str:
    # A named tuple of one tuple, as JSON keeps it.
    values = [one for one in (value or [[]])[0] if number(one) is not None]
    return f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})" if values else "-"
