"""Results of the learning benchmark: gathered from the runs' folders, kept in one tracked JSON, summarised over seeds."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from utils.errors import UserError
from utils.files import atomic_write_bytes, read_json

MAIN_METRIC = "linear segmentation mIoU"
UNTRAINED = "untrained"
# A run's result.json has these; others may be there.
_KEYS = {
    *("name", "title", "seed", "group", "program", "config", "settings", "images", "cost", "metrics"),
    *("history", "losses", "clusters", "regions", "hardware", "date", "versions"),
}
_DIGITS = 5  # that are kept of a number
_LOSSES = 80  # points that are kept of a loss curve


class Row(NamedTuple):
    """One run's results over its seeds.

    results: what each seed's result.json holds, at least one.
    """

    name: str
    title: str
    group: str
    results: list[dict[str, Any]]

    def values(self, metric: str) -> list[float]:
        """A metric of those seeds that have it, as shares in [0, 1]."""
        found = (one["metrics"].get(metric) for one in self.results)
        return [value for value in found if value is not None]

    def mean(self, metric: str) -> float | None:
        """None where no seed has it."""
        values = self.values(metric)
        return mean(values) if values else None

    def std(self, metric: str) -> float | None:
        """Of the sample, over seeds; None where fewer than two have it."""
        values = self.values(metric)
        return stdev(values) if len(values) > 1 else None


class Difference(NamedTuple):
    """How far one row lies above another.

    gain: of the means, as a share.
    noise: the standard deviation over seeds that it is measured by: the larger of both rows', or where one of them has one seed
        the largest of all rows'; None where no row has two.
    is_own: whether it is of these two rows.
    error: the standard error of the gain, which falls with the number of seeds as `noise` does not; None where `noise` is.
    """

    gain: float
    noise: float | None
    is_own: bool
    error: float | None

    @property
    def errors(self) -> float | None:
        """The gain in standard errors."""
        return _ratio(self.gain, self.error)

    @property
    def deviations(self) -> float | None:
        """The gain in standard deviations."""
        return _ratio(self.gain, self.noise)


def _ratio(gain: float, noise: float | None) -> float | None:
    if noise is None:
        return None
    return gain / noise if noise else math.copysign(math.inf, gain) if gain else 0.0


def difference(first: Row, second: Row, metric: str, rows: Iterable[Row]) -> Difference | None:
    """Of two rows; None where one of them lacks the metric."""
    means = first.mean(metric), second.mean(metric)
    if None in means:
        return None
    own = [row.std(metric) for row in (first, second)]
    is_own = None not in own
    # What first weights scatter by says nothing of a training: one seed is measured by those that have several.
    every = own if is_own else [std for row in rows if (std := row.std(metric)) is not None]
    noise = max(every, default=None)
    if noise is None:
        return Difference(means[0] - means[1], None, is_own, None)
    parts = [(noise if std is None else std) ** 2 / len(row.values(metric)) for row, std in zip((first, second), own)]
    return Difference(means[0] - means[1], noise, is_own, math.sqrt(sum(parts)))


def rows_of(results: Sequence[dict[str, Any]]) -> dict[str, Row]:
    """By name, in the order of the results."""
    rows: dict[str, Row] = {}
    for one in results:
        rows.setdefault(one["name"], Row(one["name"], one["title"], one["group"], [])).results.append(one)
    return rows


def metric_names(rows: Iterable[Row]) -> list[str]:
    """All that any row has, the main one first."""
    names = {name: None for row in rows for one in row.results for name in one["metrics"]}
    return sorted(names, key=lambda name: name != MAIN_METRIC)


def gather(runs: Path, order: Sequence[str]) -> list[dict[str, Any]]:
    """The result.json of each run and seed below a size's folder, NAME/seedN.

    Args:
        order: names as tables have them; others come last.
    Returns:
        By that order, then by seed; numbers shortened, loss curves thinned.
    Raises:
        UserError: there is none, or one is damaged.
    """
    found = [_shorten(_read_result(path)) for path in sorted(runs.glob("*/seed*/result.json"))]
    if not found:
        raise UserError(f"{runs}: no NAME/seedN/result.json there; run `python -m benchmarks.results` first")
    places = {name: place for place, name in enumerate(order)}
    return sorted(found, key=lambda one: (places.get(one["name"], len(places)), one["name"], one["seed"]))


def _read_result(path: Path) -> dict[str, Any]:
    try:
        result = read_json(path)
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); remove it and run the benchmark again") from error
    missing = sorted(_KEYS - result.keys()) if isinstance(result, dict) else sorted(_KEYS)
    if missing:
        raise UserError(
            f"{path}: no result of this benchmark: {', '.join(missing)} missing; remove it and run it again"
        )
    return result


def _shorten(result: dict[str, Any]) -> dict[str, Any]:
    losses = result["losses"] or []
    last = len(losses) - 1
    places = sorted({round(last * place / (_LOSSES - 1)) for place in range(_LOSSES)}) if last > 0 else range(last + 1)
    return _rounded({**result, "losses": [losses[place] for place in places]})


def _rounded(value: Any) -> Any:
    """JSON's values with fewer digits; what is not finite becomes null."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value


def write_results(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """A JSON list, a run a line: what changed is seen run by run."""
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in results)
    atomic_write_bytes(path, f"[\n{lines}\n]\n".encode())


def made_regions(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of a run's own regions by epoch; superpixels that it starts from are none of them."""
    entries = result["regions"] or []
    return [entry for entry in entries if entry.get("masks", "").startswith("epoch_")] or entries


def mean_curve(curves: Iterable[Iterable[tuple[float, float | None]]]) -> tuple[list[float], list[float], list[float]]:
    """Mean and standard deviation over seeds of (x, y) points, at each x that any seed has.

    Returns:
        x, mean, standard deviation: 0 where one seed has that x.
    """
    found: dict[float, list[float]] = {}
    for curve in curves:
        for x, y in curve:
            if y is not None:
                found.setdefault(x, []).append(y)
    places = sorted(found)
    deviations = [stdev(found[x]) if len(found[x]) > 1 else 0.0 for x in places]
    return places, [mean(found[x]) for x in places], deviations
