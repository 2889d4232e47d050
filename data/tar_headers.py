"""Where the files in a tar lie: reads the headers alone, some hundred thousand a second from memory."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import DataError

BLOCK = 512
# A header's checksum counts its own eight bytes as spaces.
_CHECKSUM, _SPACES = slice(148, 156), 8 * 32
_PLAIN = (b"0", b"\0", b"7")
# Devices, folders and pipes, for which some programs note a size, though no bytes follow.
_EMPTY = (b"3", b"4", b"5", b"6")
_LINK = "a link; pack the files themselves (tar --dereference --hard-dereference)"
_SPARSE = "a sparse file; pack it without --sparse"
_REFUSED = {b"1": _LINK, b"2": _LINK, b"S": _SPARSE}
_LONGEST_NOTE = 1 << 20
# Tars end with a record's zeros, a megabyte at most; what was not copied, or another tar, is more.
_LONGEST_END = 1 << 20
_MOST_DIGITS = 20


class Part(NamedTuple):
    """A file in a tar."""

    name: bytes
    offset: int  # of its first byte
    size: int


class DamagedTar(DataError):
    """A tar that is missing, truncated or damaged; names it and the place."""


def read_parts(path: str | Path) -> Iterator[Part]:
    """The plain files of a tar (POSIX, GNU or older), in their order; folders and the like are left out.

    Raises:
        DamagedTar: no such file, no tar, compressed, one that ends too early or goes on after its end, or one that holds links.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            yield from _walk(path, file.fileno())
    except OSError as error:
        raise DamagedTar(f"{path}: {error.strerror or error}") from error


def _walk(path: str | Path, number: int) -> Iterator[Part]:
    length, at, said = os.fstat(number).st_size, 0, {}
    while any(header := os.pread(number, BLOCK, at)) or len(header) < BLOCK:
        size, kind = _check(path, header, at)
        at, is_note = at + BLOCK, header[156:157] in (b"x", b"g", b"L", b"K")
        size = size if is_note else 0 if kind in _EMPTY else said.get("size", size)
        if at + size > length:
            raise DamagedTar(f"{path}: truncated: {length} bytes, but a file in it ends at byte {at + size}")
        if is_note:
            said |= _read_note(path, kind, os.pread(number, min(size, _LONGEST_NOTE), at))
        else:
            name = said.get("path", _name(header))
            if kind in _PLAIN and not name.endswith(b"/"):
                yield Part(name, at, size)
            elif kind in _REFUSED:
                raise DamagedTar(f"{path}: {os.fsdecode(name)} is {_REFUSED[kind]}")
            said = {}
        at += size + -size % BLOCK
    if length - at > _LONGEST_END or os.pread(number, _LONGEST_END, at).strip(b"\0"):
        raise DamagedTar(
            f"{path}: ends at byte {at} of {length}; copy it again, or unpack tars that were joined by cat"
        )


def _check(path: str | Path, header: bytes, at: int) -> tuple[int, bytes]:
    """Size and kind of what a header begins."""
    if len(header) < BLOCK:
        raise DamagedTar(f"{path}: truncated at byte {at + len(header)}: a tar ends with blocks of zeros")
    try:
        right = _number(header[_CHECKSUM])
        if right != sum(header) - sum(header[_CHECKSUM]) + _SPACES:
            raise ValueError
        return _number(header[124:136]), header[156:157]
    except ValueError:
        hint = "; it must not be compressed" if at == 0 else ""
        raise DamagedTar(f"{path}: damaged: no tar header at byte {at}{hint}") from None


def _number(field: bytes) -> int:
    """Octal digits, or, of what they cannot say, the bytes themselves after a mark."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    value = int(field.partition(b"\0")[0].strip() or b"0", 8)
    # The next header never lies before this one.
    if value < 0:
        raise ValueError
    return value


def _name(header: bytes) -> bytes:
    name, prefix = (header[part].partition(b"\0")[0] for part in (slice(0, 100), slice(345, 500)))
    # Only POSIX' headers have a prefix; GNU keeps times there.
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _read_note(path: str | Path, kind: bytes, content: bytes) -> dict[str, Any]:
    """What the headers before a file's own say of it: pax' `path` and `size`, or GNU's long name."""
    if kind == b"L":
        return {"path": content.rstrip(b"\0")}
    found: dict[bytes, bytes] = {}
    while kind == b"x" and (match := re.match(rb"(\d{1,9}) ([^=]+)=", content)):
        end = max(int(match[1]), match.end())
        found[match[2]], content = content[match.end() : end - 1], content[end:]
    if any(key.startswith(b"GNU.sparse") for key in found):
        raise DamagedTar(f"{path}: holds {_SPARSE}")
    said: dict[str, Any] = {"path": found[b"path"]} if b"path" in found else {}
    size = found.get(b"size", b"")
    # Python refuses to make a number of thousands of digits.
    if size.isdigit() and len(size) <= _MOST_DIGITS:
        said["size"] = int(size)
    return said
