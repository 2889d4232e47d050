"""What a run's folder says, as `tools.report` shows it: numbers over time, probes, quality of masks, evaluations."""

import json
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from evaluation.results import RESULTS
from utils.errors import UserError
from utils.files import read_json

_DIGITS = 6
# Of an evaluation below the folder that `tools.eval_demo` makes: PROGRAM/PROTOCOL/WEIGHTS/results.json.
_DEPTH = 3


class RunData(NamedTuple):
    """A run's folder, read.

    name: short, and no other run's.
    rows: the lines of metrics.jsonl.
    damaged: how many more lines could not be read.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    damaged: int

    def epoch(self, step: int) -> float | None:
        """Epochs done after so many steps; None where no line tells how many steps an epoch has."""
        if step == 0:
            return 0
        steps = next((row["step"] / row["epoch"] for row in reversed(self.rows) if number(row.get("epoch"))), None)
        return None if steps is None else _rounded(step / steps)


def sort_folders(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The runs and the evaluations among some folders; a folder of ORL's stages or of evaluations stands for all in it.

    A folder that is named twice, be it by another path, is one.

    Raises:
        UserError: a folder is none of these.
    """
    runs: list[Path] = []
    evaluations: list[Path] = []
    for path in paths:
        if path.name == RESULTS:
            evaluations.append(path.parent)
        elif (path / RESULTS).is_file():
            evaluations.append(path)
        elif _is_run(path):
            runs.append(path)
        elif stages := [stage for stage in sorted(path.glob("stage?")) if _is_run(stage)]:
            runs += stages
        else:
            found = [file for depth in range(_DEPTH) for file in path.glob("*/" * (depth + 1) + RESULTS)]
            if not found:
                raise UserError(
                    f"{path}: {'no run there' if path.is_dir() else 'no such folder'}; give the folder of a run, which has "
                    f"config.yaml and metrics.jsonl, or of an evaluation, which has {RESULTS}"
                )
            evaluations += [file.parent for file in sorted(found)]
    return _once(runs), _once(evaluations)


def _once(folders: Iterable[Path]) -> list[Path]:
    found: dict[Path, Path] = {}
    for folder in folders:
        found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and any(
        (folder / name).is_file() for name in ("metrics.jsonl", "run.json")
    )


def read_runs(folders: Sequence[Path]) -> list[RunData]:
    """Read the runs' configs and logs; a run may still be going on.

    Raises:
        UserError: a config is damaged.
    """
    runs = []
    for name, folder in zip(short_names(folders), folders):
        rows, damaged = read_metrics(folder / "metrics.jsonl")
        runs.append(RunData(name, folder, _read_config(folder / "config.yaml"), rows, damaged))
    return runs


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the folders' paths, as many as tell them apart; a stage of ORL's is its run's name and its own."""
    paths = [folder.resolve() for folder in folders]
    stages = [path.name if re.fullmatch(r"stage\d", path.name) else "" for path in paths]
    parts = [(path.parent if stage else path).parts for path, stage in zip(paths, stages)]
    count = 1
    while len({one[-count:] for one in parts}) < len(set(parts)):
        count += 1
    return ["/".join(filter(None, (*one[-count:], stage))) for one, stage in zip(parts, stages)]


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines of a metrics.jsonl, and how many more there are that a kill cut short or that are no numbers of a step."""
    rows, damaged = [], 0
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
            row["step"] + 0
            rows.append(row)
        except (ValueError, KeyError, TypeError):
            damaged += 1
    return rows, damaged


def loss_names(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The losses among a run's numbers: the first of those between the gradient's norm and `total_loss` that add up to it."""
    if not rows:
        return []
    names = list(rows[0])
    if not {"gradient_norm", "total_loss"} <= set(names):
        return []
    between = names[names.index("gradient_norm") + 1 : names.index("total_loss")]
    whole = [row for row in rows if all(row.get(name) is not None for name in (*between, "total_loss"))]
    for count in range(1, len(between) + 1):
        sums = ((sum(row[name] for name in between[:count]), row["total_loss"]) for row in whole)
        if all(math.isclose(one, total, rel_tol=1e-4, abs_tol=1e-6) for one, total in sums):
            return between[:count]
    return []


def thin(points: Sequence[list], limit: int) -> list[list]:
    """At most `limit` of some points (..., value): the first, the last, and of parts of equal length the lowest and highest.

    Each one kept has its part's mean behind it: a curve of extremes tells nothing when it is smoothed. A value may be None, where
    it was not finite; of a part that has such values, the first one stays as a gap.
    """
    if len(points) <= limit:
        return list(points)
    thinned = []
    parts = max(1, (limit - 2) // 3)
    for part in range(parts):
        places = range(part * len(points) // parts, (part + 1) * len(points) // parts)
        finite = [place for place in places if points[place][-1] is not None]
        kept = {place for place in (0, len(points) - 1) if place in places}
        kept.update(next(([place] for place in places if points[place][-1] is None), []))
        mean = None
        if finite:
            kept.add(min(finite, key=lambda place: points[place][-1]))
            kept.add(max(finite, key=lambda place: points[place][-1]))
            mean = _rounded(statistics.fmean(points[place][-1] for place in finite))
        thinned += [[*points[place], mean] for place in sorted(kept)]
    return thinned


def compare_configs(runs: Sequence[RunData]) -> list[list[str]]:
    """[key, value in each run] of every key that is not the same in all; values as YAML, "-" where there is none."""
    configs = [_leaves(run.config) for run in runs]
    keys = {key: None for config in configs for key in config}
    rows = [[key, *(config.get(key, "-") for config in configs)] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def _leaves(config: Any, key: str = "") -> dict[str, str]:
    if isinstance(config, dict) and config:
        parts = (_leaves(value, f"{key}.{name}".lstrip(".")) for name, value in config.items())
        return {name: text for part in parts for name, text in part.items()}
    return {key: yaml.safe_dump(config, default_flow_style=True, width=math.inf).strip().removesuffix("...").strip()}


def read_part(run: RunData, name: str, kind: type) -> Any:
    """A JSON file that a tool may have left in a run's folder, empty where it has not.

    Raises:
        UserError: it is damaged, or no `kind` of entries.
    """
    path = run.folder / name
    if not path.is_file():
        return kind()
    try:
        value = read_json(path)
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); delete it, or make it again") from error
    entries = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    if not isinstance(value, kind) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path}: not what a tool of this project writes there; delete it, or make it again")
    return value


def number(value: Any) -> float | int | None:
    """A finite number, to six digits; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return _rounded(value)


def _rounded(value: float) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.{_DIGITS}g}")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged ({error})") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: no config of a run")
    return config
