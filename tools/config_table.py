"""The keys of a method's or an evaluator's config as a Markdown table, from its schema.

python -m tools.config_table r2o                          prints a method's table
python -m tools.config_table evaluation.segmentation      an evaluator's
python -m tools.config_table --write docs/configs.md      renews each table between <!-- keys: NAME --> and <!-- end -->
"""

import argparse
import importlib.util
import types
import typing
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from evaluation.settings import Evaluator
from utils.config import Section, schema_keys
from utils.files import atomic_write_bytes
from utils.marks import renew_marked
from utils.sections import Common


def schema_of(name: str) -> type[Section]:
    """The config schema of a method, in METHOD_config.py or its main, or of evaluation.PROGRAM, in a file of its own or its."""
    found = next(filter(importlib.util.find_spec, (f"{name}_config", f"{name}_main")), name)
    module = importlib.import_module(found)
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, (Common, Evaluator)) and value.__module__ == module.__name__
    )


def table(schema: type[Section]) -> str:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in schema_keys(schema):
        default = "required" if field.default is PydanticUndefined else f"`{_text(field.default)}`"
        lines.append(
            f"| `{key}` | {_type(field.annotation)}{_range(field.metadata)} | {default} | {field.description} |"
        )
    return "\n".join(lines)


def renew(text: str) -> str:
    """`text` with every table between its marks renewed.

    Raises:
        ValueError: there are no such marks.
    """
    return renew_marked(text, r"keys: ([\w.]+)", lambda match: table(schema_of(match[2])))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "empty" if value is None else str(value) or '""'


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join("false" if argument is False else str(argument) for argument in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(a) for a in arguments if a is not type(None))
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is tuple:
        return f"{len(arguments)} {_type(arguments[0])}s"
    if origin is list:
        return f"list of {_type(arguments[0])}"
    return {"str": "text", "bool": "true, false", "int": "whole number", "float": "number"}.get(
        getattr(annotation, "__name__", ""), "any"
    )


def _range(metadata: list[Any]) -> str:
    bounds = []
    for rule in metadata:
        for name, sign in (("gt", "&gt;"), ("ge", "≥"), ("lt", "&lt;"), ("le", "≤")):
            if getattr(rule, name, None) is not None:
                bounds.append(f"{sign} {getattr(rule, name)}")
    return f", {', '.join(bounds)}" if bounds else ""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("name", nargs="?", help="a method, or evaluation.PROGRAM")
    what.add_argument("--write", type=Path, help="a Markdown file with the marks")
    arguments = parser.parse_args(argv)
    if arguments.write is None:
        print(table(schema_of(arguments.name)))
    else:
        atomic_write_bytes(arguments.write, renew(arguments.write.read_text(encoding="utf-8")).encode("utf-8"))


if __name__ == "__main__":
    main()
