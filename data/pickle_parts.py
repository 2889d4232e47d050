"""What `data.safe_pickle` hands to a pickle in place of what it asks for: each checks what it is given.

No constructor of NumPy's or PyTorch's is among them, and no array itself: their __setstate__ take memory addresses.
"""

import io
import math
import pickletools
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Refused(Exception):
    """What a pickle asked for."""


class Call:
    """A function that a pickle may call; unlike a function itself, it has nothing that BUILD could set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable):
        self._function = function

    def __call__(self, *arguments: object) -> object:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise Refused(f"a change of {self._function.__name__}")


class Dictionary:
    """A dictionary whose keys are text."""

    __slots__ = ("items",)

    def __init__(self):
        self.items = {}

    def __setitem__(self, key: object, value: object) -> None:
        if type(key) is not str:
            raise Refused(f"a {type(key).__name__} for a dictionary's key")
        self.items[key] = value


class Dtype:
    """A number's type."""

    __slots__ = ("name",)

    def __init__(self, name: object, *rest: object):
        if not isinstance(name, str) or not re.fullmatch(r"[<>|=]?(b1|[iu][1248]|f[248])", name):
            raise Refused(f"values of type {name if isinstance(name, str) else type(name).__name__}")
        self.name = name

    def __setstate__(self, state: tuple) -> None:
        """Takes the byte order alone of (version, byte order, what records have)."""
        if state[1] not in ("<", ">", "|", "="):
            raise Refused("another byte order than there are")
        self.name = state[1] + self.name.lstrip("<>|=")


class Array:
    """An array, as it is being rebuilt."""

    __slots__ = ("values",)

    def __init__(self, values: np.ndarray | None):
        self.values = values

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        self.values = _values(data, dtype).reshape(shape, order="F" if is_fortran else "C")


class Storage(NamedTuple):
    """The row of values that a tensor is a view of."""

    values: np.ndarray


def _values(data: bytes | str, dtype: Dtype) -> np.ndarray:
    # Python 2 had no bytes: its pickles hold them as text.
    data = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(dtype, Dtype) or not isinstance(data, bytes | bytearray):
        raise Refused(f"an array of {type(data).__name__} and {type(dtype).__name__}")
    return np.frombuffer(data, np.dtype(dtype.name))


def _empty_array(*arguments: object) -> Array:
    """What _reconstruct makes, before BUILD fills it."""
    return Array(None)


def _array_of_bytes(data: bytes, dtype: Dtype, shape: tuple, order: str, axes: tuple | None = None) -> Array:
    """What protocol 5 calls; order K comes with the axes' order."""
    values = _values(data, dtype).reshape(shape, order="C" if order == "K" else order)
    return Array(values if axes is None else values.transpose(axes))


def _scalar(dtype: Dtype, data: bytes) -> Array:
    return Array(_values(data, dtype).reshape(()))


def _bytes(text: str = "", encoding: str = "latin1") -> bytes:
    """How the older protocols, which had no bytes, write them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused(f"bytes of a {type(text).__name__}")
    return text.encode("latin1")


def _array_itself(*arguments: object) -> None:
    """Pickles name the class, but never call it: it takes addresses."""
    raise Refused("a call of numpy.ndarray")


def _tensor(storage: Storage, offset: int, size: tuple, stride: tuple, *rest: object) -> Array:
    """A view of a storage's values; neither beyond them nor more of them than there are."""
    if not isinstance(storage, Storage):
        raise Refused(f"a tensor of {type(storage).__name__}")
    numbers = (offset, *size, *stride)
    if not all(isinstance(number, int) and number >= 0 for number in numbers) or len(size) != len(stride):
        raise ValueError("a tensor of an impossible size")
    end = offset + sum((count - 1) * step for count, step in zip(size, stride)) + 1
    if max(end, math.prod(size)) > len(storage.values):
        raise ValueError("a tensor out of bounds of its values")
    steps = [step * storage.values.itemsize for step in stride]
    return Array(np.lib.stride_tricks.as_strided(storage.values[offset:], size, steps, writeable=False))


# torch.save's mark before it wrote ZIP files, which storages inside of pickles still have: a pickle of a number.
_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_STORAGES = {"Byte": "u1", "Char": "i1", "Short": "<i2", "Int": "<i4", "Long": "<i8", "Bool": "?"}


def _storage(data: bytes) -> Storage:
    """The values of the one storage that torch.save wrote: five pickles, of which none is run, a count, the values."""
    if not isinstance(data, bytes) or not data.startswith(_MAGIC):
        raise Refused("a tensor's values in an unknown format")
    stream = io.BytesIO(data)
    opcodes = [opcode for _ in range(5) for opcode in pickletools.genops(stream)]
    named = [argument for opcode, argument, _ in opcodes if opcode.name == "GLOBAL"]
    kinds = {f"torch {kind}Storage": dtype for kind, dtype in _STORAGES.items()}
    for name in named:
        if name not in kinds:
            raise Refused(name.replace(" ", "."))
    [name] = named
    count = int.from_bytes(stream.read(8), "little")
    values = np.frombuffer(data, kinds[name], offset=stream.tell())
    if len(values) != count:
        raise ValueError(f"a tensor of {count} values with {len(values)}")
    return Storage(values)


# NumPy 2 calls numpy.core numpy._core.
_NUMPY = {
    "multiarray._reconstruct": Call(_empty_array),
    "multiarray.scalar": Call(_scalar),
    "numeric._frombuffer": Call(_array_of_bytes),
}
# What a pickle may ask for, by name.
KNOWN = {
    "numpy.ndarray": Call(_array_itself),
    "numpy.dtype": Call(Dtype),
    **{f"numpy.{core}.{name}": call for core in ("core", "_core") for name, call in _NUMPY.items()},
    "collections.OrderedDict": Call(Dictionary),
    "_codecs.encode": Call(_bytes),
    **{f"{module}.bytes": Call(_bytes) for module in ("builtins", "__builtin__")},
    "torch._utils._rebuild_tensor_v2": Call(_tensor),
    "torch.storage._load_from_bytes": Call(_storage),
}
