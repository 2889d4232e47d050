"""Pickled arrays, as detectron2's checkpoints have them, read without running what a pickle asks for.

A pickle is a program for a machine with a stack. Here is that machine with only what dictionaries of arrays need, and with its
own notes (`_Named`, `_Dtype`, `_Array`) in place of whatever a pickle wants to have called.
"""

import pickletools
import re
from typing import Any, NamedTuple

import numpy as np

_PUSHED = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "BINFLOAT", "FLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NAMES = re.compile(
    r"numpy\.(_?core\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)|ndarray|dtype)|_codecs\.encode|"
    r"collections\.OrderedDict|(__builtin__|builtins)\.bytes"
)
_KINDS = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")


class Refused(Exception):
    """What a pickle asks for that arrays do not need."""


class _Named(NamedTuple):
    name: str


class _Dtype:
    def __init__(self, kind: str):
        self.kind = kind


class _Array:
    def __init__(self, values: np.ndarray | None = None):
        self.values = values


def load_arrays(data: bytes) -> Any:
    """Dictionaries with names for keys, lists, numbers, text and arrays of numbers.

    Raises:
        Refused: it asks for anything else, by name.
        ValueError, LookupError, TypeError, ArithmeticError, RecursionError: it is not whole.
    """
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "STOP":
            break
        machine.step(opcode.name, argument)
    return _plain(machine.stack.pop(), {})


class _Machine:
    def __init__(self):
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # stacks below the marks
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _PUSHED:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("PROTO", "FRAME"):
            pass
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name == "MARK":
            self.marked.append(stack)
            self.stack = []
        elif name in _TUPLES or name == "TUPLE":
            items = self._items() if name == "TUPLE" else [stack.pop() for _ in range(_TUPLES[name])][::-1]
            self.stack.append(tuple(items))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[argument])
        elif name in ("APPEND", "APPENDS"):
            items = self._items() if name == "APPENDS" else [stack.pop()]
            _expect(self.stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._items() if name == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
            self._set_items(items)
        elif name == "GLOBAL":
            stack.append(_named(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_named(module, attribute))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_call(function, _expect(arguments, tuple)))
        elif name == "BUILD":
            state = stack.pop()
            _build(stack[-1], _expect(state, tuple))
        else:
            raise Refused(f"the operation {name}")

    def _items(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def _set_items(self, items: list[Any]) -> None:
        target = _expect(self.stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # A tuple nested deep enough would overflow the interpreter's own stack.
            target[_expect(key, str)] = value


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, _Named):
        raise Refused(f"a {type(value).__name__} in place of a {kind.__name__}")
    return value


def _named(module: Any, attribute: Any) -> _Named:
    name = f"{_expect(module, str)}.{_expect(attribute, str)}"
    if not _NAMES.fullmatch(name):
        raise Refused(name)
    return _Named(name)


def _call(function: Any, arguments: tuple) -> Any:
    """What the pickle would have had called, for the few functions that arrays need."""
    if not isinstance(function, _Named):
        raise Refused(f"a call of a {type(function).__name__}")
    match function.name.rpartition(".")[2], arguments:
        case "_reconstruct", _:
            return _Array()
        case "scalar", (dtype, data):
            return _Array(_values(data, dtype).reshape(()))
        case "_frombuffer", (data, dtype, shape, order):
            return _Array(_values(data, dtype).reshape(shape, order=_expect(order, str)))
        case "dtype", (str() as kind, *_) if _KINDS.fullmatch(kind):
            return _Dtype(kind)
        # How the older protocols, which had no bytes, write them.
        case "encode", (str() as text, "latin1"):
            return text.encode("latin1")
        case "bytes", ():
            return b""
        case "OrderedDict", ():
            return {}
    raise Refused(f"{function.name} of {', '.join(type(argument).__name__ for argument in arguments)}")


def _build(target: Any, state: tuple) -> None:
    if isinstance(target, _Dtype):
        # Version and byte order; the rest is of records.
        if state[1] not in ("<", ">", "|", "="):
            raise Refused(f"the byte order {state[1]!r}")
        target.kind = state[1] + target.kind.lstrip("<>|=")
    elif isinstance(target, _Array):
        _, shape, dtype, is_fortran, data = state
        target.values = _values(data, dtype).reshape(shape, order="F" if is_fortran else "C")
    else:
        raise Refused(f"a change of a {type(target).__name__}")


def _values(data: Any, dtype: Any) -> np.ndarray:
    # Python 2 had no bytes: its pickles hold them as text.
    data = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, _Dtype):
        raise Refused(f"an array of {type(data).__name__} and {type(dtype).__name__}")
    kind = np.dtype(dtype.kind)
    # Writable, and in the byte order of this machine, as PyTorch needs it.
    return np.frombuffer(data, kind).astype(kind.newbyteorder("="))


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """Without the notes; `done` holds what stands for each object, since a few objects can hold each other without end."""
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, dict):
        done[id(value)] = plain = {}
        plain.update((key, _plain(item, done)) for key, item in value.items())
        return plain
    if isinstance(value, list):
        done[id(value)] = plain = []
        plain.extend(_plain(item, done) for item in value)
        return plain
    if isinstance(value, _Array):
        if value.values is None:
            raise Refused("an array without values")
        return value.values
    if isinstance(value, _Named | _Dtype):
        raise Refused(f"a {type(value).__name__.strip('_')} for a value")
    return value
