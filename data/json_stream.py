"""JSON files that do not fit into memory: their long lists are read and written one item at a time."""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from types import ModuleType

import ijson

from utils.errors import DataError
from utils.files import atomic_path

Take = Callable[[Iterator[object]], object]


def read_parts(path: str | Path, parts: Mapping[str, Take | None]) -> dict[str, object]:
    """Some parts of a JSON file whose top is an object; passes over the others.

    Args:
        path: the file; it is read once for every part.
        parts: a part's place, such as `images` or `annotations.bbox` -> what makes of the iterator of its items, a list's,
            what is returned; None to get the part as it is.
    Returns:
        Place -> what became of it, of the parts that are there; a list without items is not.
    Raises:
        DataError: no such file, no JSON, or a `Take` raised ValueError; names the file and the remedy.
    """
    found: dict[str, object] = {}
    try:
        for place, take in parts.items():
            try:
                found |= _read_part(path, place, take, ijson)
            except UnicodeDecodeError:
                # Names of files that are no UTF-8 are halves of characters in JSON, at which the fast parser stops.
                found |= _read_part(path, place, take, ijson.get_backend("python"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except (ValueError, ijson.JSONError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: {reason}; make it again, or load it down again, whole") from error
    return found


def _read_part(path: str | Path, place: str, take: Take | None, parser: ModuleType) -> dict[str, object]:
    """{place: what became of it}, or nothing."""
    with open(path, "rb") as file:
        items = parser.items(file, place if take is None else f"{place}.item", use_float=True)
        for first in items:
            return {place: first if take is None else _take_all(take, place, chain([first], items))}
    return {}


def write_parts(path: str | Path, tree: dict) -> None:
    """Write JSON, atomically; iterators in nested dicts become lists, written one item at a time."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="ascii") as file:
        for piece in _pieces(tree):
            file.write(piece)


def _take_all(take: Take, place: str, items: Iterator[object]) -> object:
    try:
        return take(items)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _pieces(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield "{"
        for number, (key, entry) in enumerate(value.items()):
            yield f"{', ' if number else ''}{json.dumps(key)}: "
            yield from _pieces(entry)
        yield "}"
    elif isinstance(value, Iterator):
        yield "["
        for number, entry in enumerate(value):
            yield f"{',' if number else ''}{json.dumps(entry, separators=(',', ':'))}"
        yield "]"
    else:
        yield json.dumps(value)
