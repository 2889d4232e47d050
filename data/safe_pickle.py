"""Reads pickles of arrays, tensors, lists and text; runs nothing of what a pickle may ask for.

No constructor of NumPy's or PyTorch's is handed to a pickle, and no array itself: their __setstate__ take memory addresses.
What it gets instead are `_Call`, `_Array`, `_Dtype` and `_Storage`, which check what they are given.
"""

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import DataError


class UnsafePickle(DataError):
    """A pickle that asks for more than arrays, tensors, lists and text need; names the file and what it asks for."""


def load_pickle(path: str | Path) -> object:
    """Read a pickle of numbers, text, lists, or one array or tensor of integers, which comes back as an array.

    Raises:
        UnsafePickle: it asks for anything else.
        DataError: no such file, or no whole pickle.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    try:
        value = _Unpickler(io.BytesIO(_checked(data))).load()
    except _Refused as refused:
        raise UnsafePickle(f"{path}: refused, since it asks for {refused}, which no mask needs") from None
    # A damaged pickle makes nearly anything fail, from the unpickler to the array's own checks.
    except Exception as error:
        raise DataError(f"{path}: no whole pickle of a mask: {type(error).__name__}: {error}") from error
    return value.values if isinstance(value, _Array) else value


class _Refused(Exception):
    """What a pickle asked for."""


# Keys are hashed: tuples nested deep enough overflow the interpreter's stack, or take for ever.
_HASHING = {"DICT", "SETITEM", "SETITEMS", "ADDITEMS", "FROZENSET"}


def _checked(data: bytes) -> bytes:
    """The pickle without its frames, after a look for opcodes that take memory out of proportion or hash.

    Frames only help to read ahead; where one ends inside an opcode, the unpickler reads other opcodes than were looked at.
    """
    parts, begin = [], 0
    for number, (opcode, argument, place) in enumerate(pickletools.genops(data)):
        # Picklers count up from 0 or 1; the unpickler makes room for every number below.
        if opcode.name in ("PUT", "LONG_BINPUT") and argument > number:
            raise _Refused(f"place {argument} of its memory")
        if opcode.name in _HASHING:
            raise _Refused(f"a dictionary or set ({opcode.name})")
        if opcode.name == "FRAME":
            parts.append(data[begin:place])
            begin = place + 9
    return b"".join([*parts, data[begin:]])


class _Call:
    """A function that a pickle may call; unlike a function itself, it has nothing that BUILD could set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable):
        self._function = function

    def __call__(self, *arguments: object) -> object:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise _Refused(f"a change of {self._function.__name__}")


class _Dtype:
    """An integer's type."""

    __slots__ = ("name",)

    def __init__(self, name: object, *rest: object):
        if not isinstance(name, str) or not re.fullmatch(r"[<>|=]?(b1|[iu][1248])", name):
            raise _Refused(f"values of type {name if isinstance(name, str) else type(name).__name__}")
        self.name = name

    def __setstate__(self, state: tuple) -> None:
        """Takes the byte order alone of (version, byte order, what records have)."""
        if state[1] not in ("<", ">", "|", "="):
            raise _Refused("another byte order than there are")
        self.name = state[1] + self.name.lstrip("<>|=")


class _Array:
    """An array, as it is being rebuilt."""

    __slots__ = ("values",)

    def __init__(self, values: np.ndarray):
        self.values = values

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        self.values = _values(data, dtype).reshape(shape, order="F" if is_fortran else "C")


class _Storage(NamedTuple):
    """The row of values that a tensor is a view of."""

    values: np.ndarray


def _values(data: bytes, dtype: _Dtype) -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise _Refused(f"an array of {type(data).__name__} and {type(dtype).__name__}")
    return np.frombuffer(data, np.dtype(dtype.name))


def _empty_array(*arguments: object) -> _Array:
    """What _reconstruct makes, before BUILD fills it."""
    return _Array(np.empty(0, np.uint8))


def _array_of_bytes(data: bytes, dtype: _Dtype, shape: tuple, order: str, axes: tuple | None = None) -> _Array:
    """What protocol 5 calls; order K comes with the axes' order."""
    values = _values(data, dtype).reshape(shape, order="C" if order == "K" else order)
    return _Array(values if axes is None else values.transpose(axes))


def _array_itself(*arguments: object) -> None:
    """Pickles name the class, but never call it: it takes addresses."""
    raise _Refused("a call of numpy.ndarray")


def _tensor(storage: _Storage, offset: int, size: tuple, stride: tuple, *rest: object) -> _Array:
    """A view of a storage's values; neither beyond them nor more of them than there are."""
    if not isinstance(storage, _Storage):
        raise _Refused(f"a tensor of {type(storage).__name__}")
    numbers = (offset, *size, *stride)
    if not all(isinstance(number, int) and number >= 0 for number in numbers) or len(size) != len(stride):
        raise ValueError("a tensor of an impossible size")
    end = offset + sum((count - 1) * step for count, step in zip(size, stride)) + 1
    if max(end, math.prod(size)) > len(storage.values):
        raise ValueError("a tensor out of bounds of its values")
    steps = [step * storage.values.itemsize for step in stride]
    return _Array(np.lib.stride_tricks.as_strided(storage.values[offset:], size, steps, writeable=False))


def _no_hooks(*arguments: object) -> None:
    """A mask's tensor has none."""


# torch.save's mark before it wrote ZIP files, which storages inside of pickles still have: a pickle of a number.
_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_STORAGES = {"Byte": "u1", "Char": "i1", "Short": "<i2", "Int": "<i4", "Long": "<i8", "Bool": "?"}


def _storage(data: bytes) -> _Storage:
    """The values of the one storage that torch.save wrote: five pickles, of which none is run, a count, the values."""
    if not isinstance(data, bytes) or not data.startswith(_MAGIC):
        raise _Refused("a tensor's values in an unknown format")
    stream = io.BytesIO(data)
    opcodes = [opcode for _ in range(5) for opcode in pickletools.genops(stream)]
    named = [argument for opcode, argument, _ in opcodes if opcode.name == "GLOBAL"]
    kinds = {f"torch {kind}Storage": dtype for kind, dtype in _STORAGES.items()}
    for name in named:
        if name not in kinds:
            raise _Refused(name.replace(" ", "."))
    [name] = named
    count = int.from_bytes(stream.read(8), "little")
    values = np.frombuffer(data, kinds[name], offset=stream.tell())
    if len(values) != count:
        raise ValueError(f"a tensor of {count} values with {len(values)}")
    return _Storage(values)


# NumPy 2 calls numpy.core numpy._core.
_NUMPY = {"multiarray._reconstruct": _Call(_empty_array), "numeric._frombuffer": _Call(_array_of_bytes)}
_KNOWN = {
    "numpy.ndarray": _Call(_array_itself),
    "numpy.dtype": _Call(_Dtype),
    **{f"numpy.{core}.{name}": call for core in ("core", "_core") for name, call in _NUMPY.items()},
    "collections.OrderedDict": _Call(_no_hooks),
    "torch._utils._rebuild_tensor_v2": _Call(_tensor),
    "torch.storage._load_from_bytes": _Call(_storage),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> _Call:
        try:
            return _KNOWN[f"{module}.{name}"]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None
