"""JSON files that do not fit into memory: their long lists are read and written one item at a time."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

from utils.errors import DataError
from utils.files import atomic_path

_CHUNK = 1 << 20
# No number or word goes on after so many characters, nor do texts.
_LONGEST_NUMBER, _LONGEST_TEXT = 64, 1 << 16
_SPACE = re.compile(r"[ \t\n\r]*")
_DAMAGED = "make it again, or load it down again, whole"

Take = Callable[[Iterator[object]], object]


def read_parts(path: str | Path, parts: Mapping[str, Take | None]) -> dict[str, object]:
    """Some parts of a JSON file whose top is an object; passes over the others.

    Args:
        path: the file; it is read once, up to the last part asked for.
        parts: a part's place, such as `images` or `annotations.bbox` -> what makes of the iterator of its items, a list's,
            what is returned; None to get the part as it is.
    Returns:
        Place -> what became of it, of the parts that are there.
    Raises:
        DataError: no such file, no JSON, or a `Take` raised ValueError; names the file and the remedy.
    """
    found: dict[str, object] = {}
    try:
        with open(path, encoding="utf-8") as file:
            _gather(_Stream(file), "", parts, found)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: {error}; {_DAMAGED}") from error
    return found


def write_parts(path: str | Path, tree: dict) -> None:
    """Write JSON, atomically; iterators in nested dicts become lists, written one item at a time."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="ascii") as file:
        for piece in _pieces(tree):
            file.write(piece)


def _gather(stream: "_Stream", prefix: str, parts: Mapping[str, Take | None], found: dict[str, object]) -> None:
    for key in stream.keys():
        place = f"{prefix}{key}"
        if place in parts:
            take = parts[place]
            found[place] = stream.value() if take is None else _take_all(take, place, stream.items())
        elif any(part.startswith(f"{place}.") for part in parts):
            _gather(stream, f"{place}.", parts, found)
        else:
            stream.skip()
        if len(found) == len(parts):
            return


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


class _Stream:
    """A JSON text from its beginning on. What comes next must be taken by the method that fits it."""

    def __init__(self, file: TextIO):
        self._file, self._decoder = file, json.JSONDecoder()
        # What was read and not taken is text[place:]; `before` characters came before this text.
        self._text, self._place, self._before, self._ended = "", 0, 0, False

    def value(self) -> object:
        """The next value, whole."""
        self._peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._place)
            except json.JSONDecodeError as error:
                if self._ended or error.pos + _LONGEST_TEXT < len(self._text):
                    raise ValueError(f"character {self._before + error.pos}: {error.msg}") from None
            else:
                # A number could go on behind what was read so far.
                if self._ended or end + _LONGEST_NUMBER <= len(self._text):
                    self._place = end
                    return value
            self._read()

    def items(self) -> Iterator[object]:
        """The items of the next value, a list; the next is not read before one is taken."""
        yield from (self.value() for _ in self._places("[", "]"))

    def keys(self) -> Iterator[str]:
        """The keys of the next value, an object; what a key stands for must be taken before the next key."""
        for _ in self._places("{", "}"):
            key = self.value()
            if not isinstance(key, str):
                raise ValueError(f"character {self._before + self._place}: a key in quotes expected before it")
            self._expect(":")
            yield key

    def skip(self) -> None:
        """Pass over the next value."""
        first = self._peek()
        if first == "[":
            for _ in self.items():
                pass
        elif first == "{":
            for _ in self.keys():
                self.skip()
        else:
            self.value()

    def _places(self, opening: str, closing: str) -> Iterator[None]:
        """Stops before every entry of a list or object."""
        self._expect(opening)
        if self._peek() == closing:
            self._expect(closing)
            return
        yield
        while self._expect(f",{closing}") == ",":
            yield

    def _expect(self, characters: str) -> str:
        found = self._peek()
        if not found or found not in characters:
            expected = " or ".join(characters)
            raise ValueError(f"character {self._before + self._place}: {expected} expected, not '{found}'")
        self._place += 1
        return found

    def _peek(self) -> str:
        """The next character that is no space, empty at the end of the file."""
        while True:
            self._place = _SPACE.match(self._text, self._place).end()
            if self._place < len(self._text) or self._ended:
                return self._text[self._place : self._place + 1]
            self._read()

    def _read(self) -> None:
        """Read on: as much again as there is, so that a long value is not decoded again and again."""
        rest = self._text[self._place :]
        more = self._file.read(max(_CHUNK, len(rest)))
        self._before += self._place
        self._text, self._place, self._ended = rest + more, 0, not more
