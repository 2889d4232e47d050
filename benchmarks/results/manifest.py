"""What the learning benchmark runs: benchmarks/results/SIZE.yaml, or a file of one's own, checked before anything starts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from utils.config import Section, load_config
from utils.errors import UserError

FOLDER = Path(__file__).parent
SIZES = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))
# Of the programs, those that are no METHOD_main.py.
UNTRAINED = "untrained"
SUPERVISED = "evaluation."


class Entry(Section):
    title: str = Field(description="What tables call it.")
    group: Literal["object", "image", "reference", "variation"] = Field(
        description="Whether it compares objects and regions, or images; is what these are measured against; or is one of them "
        "with something changed, to find out why it does as it does."
    )
    program: str = Field(description="A method, `untrained`, or evaluation.PROGRAM, which trains with labels.")
    cfg: str = Field("demo", description="Its config, by name.")
    like: str | None = Field(None, description="Another run, whose settings it begins with.")
    settings: dict[str, Any] = Field({}, description="Keys that differ from the config and from `common`.")
    seeds: list[int] = Field([0], min_length=1, description="Of the runs.")


class Evaluation(Section):
    program: str = Field(description="evaluation.PROGRAM without its prefix.")
    cfg: str = Field("demo", description="Its config, by name.")
    settings: dict[str, Any] = Field({}, description="Keys that differ from it.")
    metrics: dict[str, str] = Field(description="Of its metrics, those that are kept, and under which names.")


class Scenes(Section):
    num_train: int = Field(4000, ge=1, description="As of tools.make_demo_data.")
    num_val: int = Field(1000, ge=1, description="As of tools.make_demo_data.")


class Probes(Section):
    history_limit: int = Field(1000, ge=10, description="Training images of the probes of each checkpoint.")
    region_limit: int = Field(300, ge=10, description="Images by which regions are judged.")


class Manifest(Section):
    at_once: int = Field(ge=1, description="Runs at a time.")
    threads: int = Field(ge=1, description="CPU threads of each.")
    size: int = Field(ge=8, description="Side of the images, in pixels.")
    backbone: dict[str, Any] = Field(description="model.backbone of every run.")
    common: dict[str, Any] = Field({}, description="Keys of every method's config.")
    scenes: Scenes = Scenes()
    mask_types: list[str] = Field([], description="Of tools.make_masks, made before anything else.")
    probes: Probes = Probes()
    evaluations: list[Evaluation] = Field([], description="What is done on frozen features.")
    runs: dict[str, Entry] = Field(min_length=1, description="By name, in the order of the tables.")

    @model_validator(mode="after")
    def _likes_are_there(self) -> "Manifest":
        for name, entry in self.runs.items():
            if entry.like is not None and entry.like not in self.runs:
                raise ValueError(f"runs.{name}.like: {entry.like} is no run; there are {', '.join(self.runs)}")
            if entry.like is not None and self.runs[entry.like].like is not None:
                raise ValueError(f"runs.{name}.like: {entry.like} is like another one itself; name that")
        return self

    def settings_of(self, entry: Entry) -> dict[str, Any]:
        """An entry's own, over those that it begins with."""
        return {**(self.runs[entry.like].settings if entry.like else {}), **entry.settings}


def read_manifest(size: str) -> Manifest:
    """The manifest of a size, by name or by its file.

    Raises:
        UserError: there is none, or it is wrong.
    """
    path = Path(size) if size.endswith(".yaml") else FOLDER / f"{size}.yaml"
    if path.parent != FOLDER and path.stem in SIZES:
        raise UserError(f"{size}: its runs would mix with those of {path.stem}; give the file another name")
    if not path.is_file():
        raise UserError(f"--size {size}: there is no {path}; give a file, or one of {', '.join(SIZES)}")
    return load_config(path, Manifest)[0]


def chosen_runs(manifest: Manifest, only: Sequence[str] | None) -> list[tuple[str, int]]:
    """(name, seed) of the runs, first seeds first: a benchmark that is stopped has something of each method.

    Raises:
        UserError: no run is called so.
    """
    unknown = sorted(set(only or ()) - manifest.runs.keys())
    if unknown:
        raise UserError(f"--only {' '.join(unknown)}: no such run; there are {', '.join(manifest.runs)}")
    names = [name for name in manifest.runs if not only or name in only]
    longest = max(len(manifest.runs[name].seeds) for name in names)
    return [
        (name, manifest.runs[name].seeds[place])
        for place in range(longest)
        for name in names
        if place < len(manifest.runs[name].seeds)
    ]
