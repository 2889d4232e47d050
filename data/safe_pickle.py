"""Reads pickles of arrays, tensors, dictionaries, lists and text; runs nothing of what a pickle may ask for.

What it gets in place of that is in `data.pickle_parts`.
"""

import io
import pickle
import pickletools
from pathlib import Path

import numpy as np

from data.pickle_parts import KNOWN, Array, Call, Dictionary, Dtype, Refused, Storage
from utils.errors import DataError


class UnsafePickle(DataError):
    """A pickle that asks for more than arrays, tensors, lists and text need; names the file and what it asks for."""


def load_pickle(path: str | Path) -> object:
    """Read a file as `unpickle` does.

    Raises:
        UnsafePickle, DataError: as `unpickle`, or there is no such file.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    return unpickle(data, where=path)


def unpickle(data: bytes, *, where: str | Path) -> object:
    """Numbers, text, bytes, arrays of numbers, tensors of integers, and lists, tuples and dictionaries of them.

    Args:
        where: the file, for messages.
    Returns:
        Dictionaries have text for keys. Arrays are views of the file's bytes: read-only, in the file's byte order. Tensors,
        and NumPy's scalars, come back as arrays.
    Raises:
        UnsafePickle: it asks for anything else.
        DataError: no whole pickle.
    """
    try:
        return _plain(_Unpickler(io.BytesIO(_checked(data)), encoding="latin1").load(), {})
    except Refused as refused:
        raise UnsafePickle(
            f"{where}: refused, since it asks for {refused}, which arrays do not need and which could run code"
        ) from None
    # A damaged pickle makes nearly anything fail, from the unpickler to the array's own checks.
    except Exception as error:
        raise DataError(
            f"{where}: no whole pickle of arrays, but damaged or of another kind: {type(error).__name__}: {error}"
        ) from error


# What is hashed may be a tuple nested deep enough to overflow the interpreter's stack, or to take for ever.
_HASHING = {"DICT", "EMPTY_SET", "ADDITEMS", "FROZENSET"}
# NONE, BINPERSID: has the unpickler call persistent_load(None).
_MAKE_DICTIONARY = b"NQ"


def _checked(data: bytes) -> bytes:
    """The pickle without its frames and with `Dictionary` for dictionaries, after a look for what takes too much.

    Frames only help to read ahead; where one ends inside an opcode, the unpickler reads other opcodes than were looked at.
    """
    parts, begin = [], 0
    for number, (opcode, argument, place) in enumerate(pickletools.genops(data)):
        # Picklers count up from 0 or 1; the unpickler makes room for every number below.
        if opcode.name in ("PUT", "LONG_BINPUT") and argument > number:
            raise Refused(f"place {argument} of its memory")
        if opcode.name in _HASHING:
            raise Refused(f"a dictionary of anything or a set ({opcode.name})")
        if opcode.name in ("PERSID", "BINPERSID"):
            raise Refused("an object outside of the pickle")
        if opcode.name == "FRAME":
            parts.append(data[begin:place])
            begin = place + 9
        if opcode.name == "EMPTY_DICT":
            parts += [data[begin:place], _MAKE_DICTIONARY]
            begin = place + 1
    return b"".join([*parts, data[begin:]])


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Call:
        try:
            return KNOWN[f"{module}.{name}"]
        except KeyError:
            raise Refused(f"{module}.{name}") from None

    def persistent_load(self, number: None) -> Dictionary:
        return Dictionary()


def _plain(value: object, done: dict[int, object]) -> object:
    """What a pickle's objects stand for; `done` has what is known by now, since they can hold each other without end."""
    if id(value) in done:
        return done[id(value)]
    match value:
        case Array(values=np.ndarray() as values):
            return values
        case Array() | Call() | Dtype() | Storage():
            raise Refused(f"a {type(value).__name__.lower()} for a value")
        case Dictionary():
            done[id(value)] = plain = {}
            plain.update((key, _plain(item, done)) for key, item in value.items.items())
        case list():
            done[id(value)] = plain = []
            plain.extend(_plain(item, done) for item in value)
        case tuple():
            done[id(value)] = plain = tuple(_plain(item, done) for item in value)
        case _:
            return value
    return plain
