"""The programs of one run of the learning benchmark, in order; what each leaves behind says that it is done."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.results.manifest import SUPERVISED, UNTRAINED, Entry, Evaluation, Manifest
from evaluation.backbones import run_folder
from utils.config import differences
from utils.errors import UserError
from utils.files import read_json, write_json

ROOT = Path(__file__).parents[2]
# Of a run's folder, when all of it is done.
RESULT = "result.json"


class Step(NamedTuple):
    """A program that is run."""

    name: str
    arguments: tuple[str, ...]  # of the interpreter
    leaves: Path  # exists when the step is done


def steps_of(size: str, manifest: Manifest, name: str, seed: int, folder: Path) -> list[Step]:
    """The steps of a run.

    Args:
        folder: the run's; its backbone comes to PRETRAIN/backbone.pth in it, its result to RESULT.
    """
    entry, pretrain = manifest.runs[name], folder / "pretrain"
    # ORL's last stage has a folder of its own, which is not there before.
    trained = pretrain / "stage3" if _has_stages(manifest, entry) else run_folder(pretrain)
    steps = [_pretraining(manifest, entry, seed, pretrain, trained)]
    own = ("-m", "benchmarks.results.measure", "--size", size, "--name", name, "--seed", str(seed))
    steps.append(Step("measure", (*own, "--folder", str(folder)), folder / RESULT))
    return steps


def hold_basis(manifest: Manifest, name: str, seed: int, folder: Path) -> None:
    """Note in a run's folder what it is made by.

    Raises:
        UserError: it was begun by something else, which its files would be mixed with.
    """
    entry = manifest.runs[name]
    basis = {
        "program": entry.program,
        "config": entry.cfg,
        "settings": all_settings(manifest, entry, seed),
        "scenes": manifest.scenes.model_dump(),
        "probes": manifest.probes.model_dump(),
        "evaluations": [one.model_dump() for one in manifest.evaluations],
    }
    note = folder / "made_by.json"
    if note.is_file() and (changed := differences(read_json(note), basis)):
        raise UserError(f"{folder} was made by other settings ({'; '.join(changed)}): remove it, and it is made again")
    write_json(note, basis)


def evaluator_arguments(evaluation: Evaluation, trained: Path, out: Path) -> tuple[str, ...]:
    """The command line of an evaluator, after its program."""
    settings = _set(evaluation.settings)
    return ("--cfg", evaluation.cfg, "--weights", str(trained), "--out", str(out), "--resume", "auto", *settings)


def is_pretrained(entry: Entry) -> bool:
    """Whether a method trains it, without labels."""
    return entry.program != UNTRAINED and not entry.program.startswith(SUPERVISED)


def all_settings(manifest: Manifest, entry: Entry, seed: int) -> dict[str, Any]:
    """The keys that differ from an entry's config: the run's own, and those that all runs of its kind share."""
    shared = {f"model.backbone.{key}": value for key, value in manifest.backbone.items()}
    if entry.program == UNTRAINED:
        return {**shared, "seed": seed}
    shared |= {"data.resize_size": manifest.size, "seed": seed, "threads": manifest.threads}
    if is_pretrained(entry):
        shared |= manifest.common
    elif entry.program != "evaluation.classification":
        # The others have sizes of their own kind.
        shared.pop("data.resize_size")
    return shared | manifest.settings_of(entry)


def _pretraining(manifest: Manifest, entry: Entry, seed: int, pretrain: Path, trained: Path) -> Step:
    leaves = trained / "backbone.pth"
    if entry.program == UNTRAINED:
        backbone = yaml.safe_dump(manifest.backbone, default_flow_style=True).strip()
        arguments = ("--backbone", backbone, "--seed", str(seed), "--out", str(pretrain))
        return Step("pretrain", ("-m", "benchmarks.results.untrained", *arguments), leaves)
    program = (
        ("-m", entry.program) if entry.program.startswith(SUPERVISED) else (str(ROOT / f"{entry.program}_main.py"),)
    )
    stage = ("--stage", "all") if _has_stages(manifest, entry) else ()
    settings = _set(all_settings(manifest, entry, seed))
    return Step(
        "pretrain",
        (*program, "--cfg", entry.cfg, *stage, "--out", str(pretrain), "--resume", "auto", *settings),
        leaves,
    )


def _has_stages(manifest: Manifest, entry: Entry) -> bool:
    return entry.program == "orl" and manifest.settings_of(entry).get("model.variant") != "byol"


def _set(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The command line's form of some keys."""
    if not settings:
        return ()
    values = {key: yaml.safe_dump(value, default_flow_style=True, width=10**6) for key, value in settings.items()}
    return ("--set", *(f"{key}={value.removesuffix('...' + chr(10)).strip()}" for key, value in values.items()))
