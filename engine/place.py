"""Where a run goes: its folder, and what it goes on from."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from utils.config import Section
from utils.distributed import on_main
from utils.errors import UserError
from utils.files import read_json, remove_leftovers, write_json

RUNS = Path("runs")
# Sections and keys that may differ between a run and its continuation.
_FREE_KEYS = {
    "checkpoint": None,
    "log": None,
    "distributed": None,
    "timeout_minutes": None,
    "data": ("data_workers", "max_bad_fraction", "val_batch_size"),
    "features": ("keep",),
    "svm": ("processes",),
    "proposals": ("dir",),
    "neighbours": ("batch_size", "memory_mb"),
    "pairs": ("batch_size", "parts"),
}


class Place(NamedTuple):
    """Where a run goes, and what it goes on from."""

    folder: Path
    stamp: str  # the run's name, for `checkpoint.ckpt_path` and `log.log_dir`
    resumes: bool
    checkpoint: Path | None = None  # to go on from; None for the newest in the folder, if any


def find_run(method: str, config: Section, *, out: str | None, resume: str | None) -> Place:
    """Choose the run's folder and what it resumes from; rank 0 chooses for all, and nothing is written yet.

    Args:
        method: names the folder below runs/.
        out: the folder instead.
        resume: None for a new run; "auto" for `out`, or else the newest run of the same config, or a new run where there
            is none; a run's folder; or a checkpoint. It goes before checkpoint.resume_path.
    Raises:
        UserError: where a new run would write over another, or nothing is at `resume`.
    """
    return on_main(lambda: _choose_place(method, config, out=out, resume=resume or config.checkpoint.resume_path))


def note_run(place: Place, config: Section) -> None:
    """Leave in a run's folder what finds it again: its name, and what its config must be to go on.

    What a killed process did not finish there goes; other folders in it have owners of their own.
    """
    for folder in (place.folder, place.folder / "pictures"):
        remove_leftovers(folder, recursive=False)
    values = config.model_dump(mode="json")
    write_json(place.folder / "run.json", {"stamp": place.stamp, "fingerprint": fingerprint(values)})


def fingerprint(config: dict[str, Any]) -> str:
    """What two configs share if one run may continue the other."""
    return hashlib.sha256(json.dumps(fixed_part(config), sort_keys=True).encode()).hexdigest()


def fixed_part(config: dict[str, Any]) -> dict[str, Any]:
    """A config without what may change between a run and its continuation."""
    fixed = {}
    for section, values in config.items():
        free = _FREE_KEYS.get(section, ())
        if free is not None:
            fixed[section] = {k: v for k, v in values.items() if k not in free} if isinstance(values, dict) else values
    return fixed


def _choose_place(method: str, config: Section, *, out: str | None, resume: str | None) -> Place:
    stamp = config.checkpoint.time_stamp or time.strftime("%Y%m%d_%H%M%S")
    new = Path(out) if out else RUNS / method / stamp
    if resume is None:
        if (new / "run.json").exists():
            raise UserError(f"{new} holds a run already: continue it with --resume auto, or give another --out")
        return Place(new, stamp, resumes=False)
    if resume == "auto":
        folder = new if out else _newest_like(method, config) or new
        return Place(folder, _stamp_of(folder, stamp), resumes=True)
    path = Path(resume)
    if (path / "run.json").is_file():
        return Place(path, _stamp_of(path, stamp), resumes=True)
    if not path.is_file():
        raise UserError(
            f"checkpoint.resume_path / --resume: no run and no checkpoint at {resume}; give `auto`, a run's folder "
            "(with its run.json) or a checkpoint"
        )
    folder = path.parent.parent if path.parent.name == "checkpoints" and not out else new
    return Place(folder, _stamp_of(folder, stamp), resumes=True, checkpoint=path)


def _newest_like(method: str, config: Section) -> Path | None:
    """The newest run's folder of the same config."""
    own = fingerprint(config.model_dump(mode="json"))
    for note in sorted((RUNS / method).glob("*/run.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        if _read_note(note).get("fingerprint") == own:
            return note.parent
    return None


def _read_note(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


def _stamp_of(folder: Path, otherwise: str) -> str:
    return _read_note(folder / "run.json").get("stamp", otherwise)
