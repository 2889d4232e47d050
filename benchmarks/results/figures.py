"""Figures of the learning benchmark, drawn from its tracked JSON alone."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from PIL import Image

from benchmarks.results.orderings import CEILING, FIRST_MASKS, FIXED_K, IMAGE_LEVEL, OBJECT_LEVEL, UNREFINED, VARIATION
from benchmarks.results.summary import MAIN_METRIC, UNTRAINED, Row, made_regions, mean_curve
from tools.pictures import save_flat

_DOTS = 150  # per inch
_COLOURS = 128  # of a PNG's palette: a figure of lines needs no more
_STYLE = {
    "r2o": ("#0072b2", "-"),
    "r2o_k4": ("#56b4e9", "--"),
    "r2o_k32": ("#009e73", "--"),
    "r2o_k128": ("#7b3fa0", "--"),
    UNREFINED: ("#8c8c8c", "-."),
    "detconb_fh": ("#d55e00", "-"),
    CEILING: ("#8b1a1a", "--"),
    "cyborgs": ("#cc79a7", "-"),
    FIRST_MASKS: ("#cc79a7", ":"),
    "resim": ("#a89000", "-"),
    "orl": ("#e69f00", "-"),
    "byol": ("#000000", ":"),
    "mocov2": ("#666666", ":"),
    "r2o_untrained": ("#56b4e9", "--"),
    "cyborgs_untrained": ("#cc79a7", "--"),
    "slic": ("#009e73", "--"),
    "fh": ("#d55e00", "--"),
}
_GROUPS = {"object": "#0072b2", "image": "#e69f00", "reference": "#8c8c8c"}
# Of the learning curves: a row that is in none comes to the first, but for variations, which the tables have.
_PANELS = {
    "Methods": (*OBJECT_LEVEL, *IMAGE_LEVEL),
    "R2O: which regions": ("r2o", *FIXED_K, UNREFINED),
    "DetCon-B's and CYBORGS' masks": ("detconb_fh", "cyborgs", CEILING, FIRST_MASKS),
}
_QUALITIES = ("best IoU", "ARI", "boundary F")


def learning_curves(rows: Mapping[str, Row]) -> Figure | None:
    """The main metric against images seen, mean and standard deviation over seeds; None where no run has a history."""
    shown = {name: row for name, row in rows.items() if any(one["history"] for one in row.results)}
    shown.pop(UNTRAINED, None)
    if not shown:
        return None
    panels = {title: [name for name in names if name in shown] for title, names in _PANELS.items()}
    placed = set().union(*_PANELS.values())
    panels["Methods"] += [name for name in shown if name not in placed and shown[name].group != VARIATION]
    # A panel of one line would repeat what the first one shows.
    panels = {title: names for title, names in panels.items() if len(names) > (title != "Methods")}
    figure, axes = _panels(1, len(panels), height=4.6)
    for axis, (title, names) in zip(axes, panels.items()):
        for name in names:
            _band(axis, shown[name], mean_curve(map(_seen, shown[name].results)))
        axis.set_xlabel("images seen (thousands)")
        axis.set_title(title, fontsize=11)
    axes[0].set_ylabel(f"{MAIN_METRIC} (%)")
    _share_y(axes)
    _legend(figure, axes)
    return figure


def _seen(result: dict[str, Any]) -> list[tuple[float, float]]:
    """(thousands of images, per cent) of each checkpoint; ORL's history is of its last stage, after the images of its first."""
    history = result["history"] or []
    steps = max([entry["step"] for entry in history] + [step for step, _ in result["losses"] or []] + [1])
    before, epochs = (
        result["settings"].get("optimizer.stage1_epochs", 0),
        max([entry["epoch"] for entry in history] + [1]),
    )
    shares = [(before + epochs * entry["step"] / steps) / (before + epochs) for entry in history]
    scores = [entry.get(MAIN_METRIC) for entry in history]
    return [(share * result["images"] / 1000, 100 * score) for share, score in zip(shares, scores) if score is not None]


def loss_curves(rows: Mapping[str, Row]) -> Figure | None:
    """Each run's total loss by its first value, a panel a run and a line a seed; None where no run has losses."""
    shown = [row for row in rows.values() if any(one["losses"] for one in row.results)]
    if not shown:
        return None
    columns = min(5, len(shown))
    figure, axes = _panels(-(-len(shown) // columns), columns, height=2.0)
    for axis, row in zip(axes, shown):
        for one in row.results:
            losses = [(step, loss) for step, loss in one["losses"] or [] if loss is not None]
            if losses and losses[0][1]:
                steps, values = zip(*losses)
                axis.plot(
                    steps, np.array(values) / values[0], color=_style(row.name)["color"], linewidth=1.3, alpha=0.8
                )
        axis.set_title(fill(row.title, 21), fontsize=9)
        axis.axhline(1, color="#bbbbbb", linewidth=0.8, zorder=0)
        axis.tick_params(labelsize=7.5)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    figure.supxlabel("step", fontsize=10)
    figure.supylabel("total loss / its first value", fontsize=10)
    _share_y(axes[: len(shown)])
    return figure


def region_curves(rows: Mapping[str, Row]) -> Figure | None:
    """K by epoch, and the quality of regions by epoch; None where no run has regions. True masks would say nothing."""
    shown = [row for row in rows.values() if any(one["regions"] for one in row.results) and row.name != CEILING]
    if not shown:
        return None
    figure, axes = _panels(2, 2, height=3.0)
    for row in shown:
        clusters = mean_curve(one["clusters"] or [] for one in row.results)
        if clusters[0]:
            axes[0].step(clusters[0], clusters[1], where="post", **_style(row.name))
        for axis, quality in zip(axes[1:], _QUALITIES):
            _band(axis, row, mean_curve(_judged(one, quality) for one in row.results))
    axes[0].set_yscale("log", base=2)
    axes[0].yaxis.set_major_formatter(ScalarFormatter())
    axes[0].set(title="K: clusters of a group of images", ylabel="K")
    for axis, quality in zip(axes[1:], _QUALITIES):
        axis.set(title=f"regions: {quality} against the truth", ylabel=quality)
    last = max(axis.get_xlim()[1] for axis in axes)
    for axis in axes:
        axis.set_xlim(-0.03 * last, last)
    for axis in axes[-2:]:
        axis.set_xlabel("epoch")
    _legend(figure, axes[1:])
    return figure


def _judged(result: dict[str, Any], quality: str) -> list[tuple[float, float | None]]:
    """By epoch; what never changes is a line over the whole run."""
    points = [(entry["epoch"], entry.get(quality)) for entry in made_regions(result)]
    epochs = [entry["epoch"] for entry in result["history"] or []]
    return points if len(points) != 1 or not epochs else [(epoch, points[0][1]) for epoch in (0, max(epochs))]


def score_bars(rows: Mapping[str, Row]) -> Figure | None:
    """The main metric of each run; None where no run has it."""
    shown = [row for row in rows.values() if row.mean(MAIN_METRIC) is not None]
    if not shown:
        return None
    figure, (axis,) = _panels(1, 1, height=0.8 + 0.27 * len(shown))
    means = [100 * row.mean(MAIN_METRIC) for row in shown]
    deviations = [row.std(MAIN_METRIC) for row in shown]
    places = range(len(shown))
    axis.barh(places, means, color=[_GROUPS.get(row.group, "#444444") for row in shown])
    for place, value, deviation in zip(places, means, deviations):
        if deviation is not None:
            axis.errorbar(value, place, xerr=100 * deviation, color="black", capsize=3)
        end = value + 100 * (deviation or 0)
        axis.annotate(f"{value:.1f}", (end, place), (5, 0), textcoords="offset points", va="center", size=9)
    if UNTRAINED in rows:
        axis.axvline(100 * rows[UNTRAINED].mean(MAIN_METRIC), color="#444444", linewidth=1, linestyle="--", zorder=0.5)
    axis.set_yticks(places, [row.title for row in shown])
    axis.set(xlabel=f"{MAIN_METRIC} (%)", xlim=(0, 1.12 * max(means)))
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")
    return figure


def photograph_curves(entries: Sequence[dict[str, Any]]) -> Figure | None:
    """Regions of photographs by epoch beside those of SLIC and FH, which are level lines; None where nothing has epochs."""
    learned = {entry["method"]: None for entry in entries if entry["epoch"] is not None}
    if not learned:
        return None
    figure, axes = _panels(1, 2, height=4.2)
    for axis, (key, title) in zip(axes, {"ari": "ARI", "boundary_f": "boundary F"}.items()):
        known = [one for one in entries if one[key] is not None]
        for method in learned:
            own = [one for one in known if one["method"] == method and one["epoch"] is not None]
            points = sorted((one["epoch"], one[key], one["masks"].partition(", epoch")[0]) for one in own)
            epochs, values, titles = zip(*points)
            axis.plot(epochs, values, **_style(method), marker="o", markersize=3.5, label=titles[-1])
        for one in (one for one in known if one["epoch"] is None):
            axis.axhline(one[key], **_style(one["method"]), linewidth=1)
            place = {"xytext": (-2, 2), "textcoords": "offset points", "ha": "right", "size": 8}
            axis.annotate(one["masks"], (1, one[key]), xycoords=axis.get_yaxis_transform(), **place)
        axis.set(title=f"{title} against people", xlabel="epoch", ylabel=title)
    _legend(figure, axes)
    return figure


# By the end of their files' names.
FIGURES: Mapping[str, Callable[[Mapping[str, Row]], Figure | None]] = {
    "scores": score_bars,
    "learning": learning_curves,
    "losses": loss_curves,
    "regions": region_curves,
}


def save(figure: Figure | None, path: Path) -> None:
    """Write a PNG; a figure that is None removes an earlier one."""
    if figure is None:
        path.unlink(missing_ok=True)
        return
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS, facecolor="white")
    save_flat(Image.open(buffer).convert("RGB"), path, colours=_COLOURS)


def _panels(rows: int, columns: int, *, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of a page's width; the height is of one row, in inches."""
    figure = Figure(figsize=(9.6, rows * height), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.grid(color="#e4e4e4", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _band(axis: Axes, row: Row, curve: tuple[list[float], list[float], list[float]]) -> None:
    """A line with its band of one standard deviation."""
    x, means, deviations = map(np.array, curve)
    if not len(x):
        return
    marker = {"marker": "o", "markersize": 3} if len(x) > 1 else {"marker": "D", "markersize": 6}
    axis.plot(x, means, label=row.title, **_style(row.name), **marker)
    axis.fill_between(
        x, means - deviations, means + deviations, color=_style(row.name)["color"], alpha=0.15, linewidth=0
    )


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One for all panels, below them."""
    handles = {title: line for axis in axes for line, title in zip(*axis.get_legend_handles_labels())}
    options = {"ncols": 4, "fontsize": 9, "frameon": False, "handlelength": 3}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", **options)


def _share_y(axes: Sequence[Axes]) -> None:
    """One range for all; only those at the left say it."""
    lowest, highest = (end(axis.get_ylim()[side] for axis in axes) for side, end in ((0, min), (1, max)))
    for axis in axes:
        axis.set_ylim(lowest, highest)
        axis.tick_params(labelleft=axis.get_subplotspec().is_first_col())


def _style(name: str) -> dict[str, str]:
    return dict(zip(("color", "linestyle"), _STYLE.get(name, ("#444444", "-"))))
