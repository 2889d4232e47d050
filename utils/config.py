"""YAML configs: found by name, overridden from the command line, checked against a schema before anything is built."""

import difflib
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from utils.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
# The names that the releases use for their published configs.
ALIASES = {"train_imagenet_300": "imagenet_300ep", "train_coco_300": "coco_300ep"}


class Section(BaseModel):
    """A part of a config: unknown keys are refused, values are checked, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _empty_means_default(cls, values: Any) -> Any:
        # `log:` and `subset:` with nothing behind them read as None, `resume_path: ""` as a path.
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if not cls._is_empty(key, value)}

    @classmethod
    def _is_empty(cls, key: str, value: Any) -> bool:
        return key in cls.model_fields and (value is None or value == "")


Schema = TypeVar("Schema", bound=Section)


def unused(why: str) -> Any:
    """A key of the releases that no longer does anything: accepted, with a warning that says why."""
    return Field(default=None, description=f"No longer used: {why}", json_schema_extra={"unused": why})


class _Loader(yaml.SafeLoader):
    """safe_load that refuses a key written twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def find_config(name: str, *, method: str) -> Path:
    """The file that `--cfg NAME_OR_PATH` means: a path, or a name in configs/METHOD/ with or without `.yaml`.

    Raises:
        UserError: where there is none, with the names there are.
    """
    folder = CONFIGS / method
    bare = name.removesuffix(".yaml")
    bare = ALIASES.get(bare.removeprefix(f"{method}/"), bare)
    for path in (Path(name), folder / f"{bare}.yaml", CONFIGS / f"{bare}.yaml"):
        if path.is_file():
            return path
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    raise UserError(
        f"--cfg {name}: no such file, and no such config in {folder}{_nearest(bare, known)}; "
        f"there are: {', '.join(known)}"
    )


def load_config(path: Path, schema: type[Schema], *, overrides: list[str] = ()) -> tuple[Schema, list[str]]:
    """Read and check a config.

    Args:
        path: the YAML file.
        schema: what it must look like.
        overrides: "section.key=value" each, the value in YAML.
    Returns:
        The config, and warnings about keys that no longer do anything.
    Raises:
        UserError: naming the file, each wrong key's full path, its value, what was expected and the nearest valid key.
    """
    raw = _read(path)
    places = dict.fromkeys(_leaves(raw), str(path))
    for override in overrides:
        key, value = _parse_override(override)
        _put(raw, key, value)
        places[key] = "--set"
    try:
        config = schema.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(problem, schema, places, str(path)) for problem in error.errors()]
        raise UserError("\n".join(lines)) from None
    return config, [f"{places.get(key, path)}: {key}: no longer used: {why}" for key, why in _unused_keys(schema, raw)]


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """`section.key: old -> new` for every leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*new, *(name for name in old if name not in new)]
        return [
            line for name in names for line in differences(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
        ]
    return [] if old == new else [f"{key}: {old} -> {new}"]


def dump_config(config: Section) -> str:
    """The resolved config as YAML, keys no longer used left out; loading it gives the same config."""
    values = config.model_dump(mode="json")
    for key, _ in _unused_keys(type(config), values):
        *parents, last = key.split(".")
        section = values
        for parent in parents:
            section = section[parent]
        del section[last]
    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=120)


def schema_keys(schema: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(full key, pydantic FieldInfo) of every leaf of a schema, in order."""
    for name, field in schema.model_fields.items():
        section = _section_of(field.annotation)
        if section:
            yield from schema_keys(section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _read(path: Path) -> dict:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # nosec B506
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a YAML file: {error}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected sections such as `model:` and `data:`, found {type(raw).__name__}")
    return raw


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set {text}: expected section.key=value, such as optimizer.base_lr=0.2")
    try:
        return key.strip(), yaml.load(value, Loader=_Loader)  # nosec B506
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value is not YAML: {error}") from None


def _put(raw: dict, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        # An empty section (`log:` alone) reads as None.
        if raw.get(parent) is None:
            raw[parent] = {}
        raw = raw[parent]
        if not isinstance(raw, dict):
            raise UserError(f"--set {key}: {parent} is a value, not a section")
    raw[last] = value


def _leaves(raw: dict, prefix: str = "") -> Iterator[str]:
    for key, value in raw.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")


def _explain(problem: dict, schema: type[Section], places: dict[str, str], file: str) -> str:
    parts = [str(part) for part in problem["loc"]]
    key = ".".join(parts)
    place = next((places[k] for k in (key, ".".join(parts[:-1])) if k in places), file)
    if problem["type"] == "extra_forbidden":
        return f"{place}: {key}: no such key{_nearest(key, _known_keys(schema))}"
    if problem["type"] == "missing":
        return f"{place}: {key}: this key is missing and has no default"
    message = problem["msg"].removeprefix("Value error, ")
    if not parts:
        # A rule about several keys names them itself.
        return f"{place}: {message}"
    return f"{place}: {key}: {message[0].lower()}{message[1:]}; found {problem['input']!r}"


def _known_keys(schema: type[Section]) -> list[str]:
    leaves = [key for key, _ in schema_keys(schema)]
    sections = {key.rpartition(".")[0] for key in leaves} - {""}
    return [*leaves, *sorted(sections)]


def _nearest(key: str, known: list[str]) -> str:
    # The last part alone finds a key that stands in another section; the whole path decides between several.
    leaf = key.rpartition(".")[2]
    same_leaf = [k for k in known if k.rpartition(".")[2] == leaf]
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6) if not same_leaf else same_leaf
    return f"; did you mean {close[0]}?" if close else ""


def _unused_keys(schema: type[Section], raw: dict) -> Iterator[tuple[str, str]]:
    present = set(_leaves(raw))
    for key, field in schema_keys(schema):
        extra = field.json_schema_extra
        if key in present and isinstance(extra, dict) and "unused" in extra:
            yield key, extra["unused"]


def _section_of(annotation: Any) -> type[Section] | None:
    options = (
        typing.get_args(annotation)
        if typing.get_origin(annotation) in (typing.Union, types.UnionType)
        else (annotation,)
    )
    return next((o for o in options if isinstance(o, type) and issubclass(o, Section)), None)
