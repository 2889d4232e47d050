"""Files that are whole or absent, whatever moment the process is killed at."""

import hashlib
import json
import os
import re
import secrets
import socket
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

# Leftovers of killed processes are recognised by it.
TEMPORARY_PREFIX = ".tmp-"
_OLD_SECONDS = 24 * 3600


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a path to write to; what was written replaces `path` at the end, or leaves no trace on an error.

    Args:
        path: the file to make or replace; its folder is made where missing.
    Yields:
        A path in the same folder, with the same suffix (writers choose the format by it). The body must create it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f"{this_machine()}-{os.getpid():x}-{secrets.token_hex(4)}"
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{writer}-{path.name}")
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
    except OSError as error:
        # What a full disk says names no file.
        if error.errno is not None:
            error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    # The renaming itself survives a power cut only when the folder is on disk too.
    _flush_to_disk(path.parent)


def remove_leftovers(folder: str | os.PathLike, *, recursive: bool = True) -> None:
    """Remove what processes of this machine that are gone never finished in a folder, and whatever is a day old.

    Others may be writing there.
    """
    for path in Path(folder).glob(f"{'**/' if recursive else ''}{TEMPORARY_PREFIX}*"):
        writer = re.match(rf"{re.escape(TEMPORARY_PREFIX)}([0-9a-f]{{8}})-([0-9a-f]+)-", path.name)
        try:
            is_own = writer is not None and writer[1] == this_machine()
            if is_own and not _lives(int(writer[2], 16)) or time.time() - path.stat().st_mtime > _OLD_SECONDS:
                path.unlink()
        except FileNotFoundError:  # put in place just now
            continue


@cache
def this_machine() -> str:
    """Eight digits that processes have in common which see each other: those of a machine, or of a container."""
    try:
        # A container's processes are counted apart.
        identity = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:
        identity = socket.gethostname()
    return hashlib.sha256(identity.encode()).hexdigest()[:8]


def atomic_write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write `data` to `path`, replacing an earlier file in one step."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def read_json(path: str | os.PathLike) -> object:
    """The object that a JSON file holds."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_json(path: str | os.PathLike, obj: object) -> None:
    """Write `obj` as indented JSON, replacing an earlier file in one step."""
    atomic_write_bytes(path, (json.dumps(obj, indent=1) + "\n").encode("utf-8"))


def file_sha256(path: str | os.PathLike) -> str:
    """A file's SHA-256, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def is_sound_zip(path: str | os.PathLike) -> bool:
    """Whether a file that torch.save made has the checksums that its parts say, which torch.load never asks; True for others."""
    if not zipfile.is_zipfile(path):
        return True
    try:
        with zipfile.ZipFile(path) as parts:
            return parts.testzip() is None
    # Damage to the directory of parts makes zipfile raise nearly anything.
    except Exception:
        return False


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        state = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:  # another system's, or hidden
        return True
    # Dead ones are counted until their parent looks, which a container's first process may do late or never.
    return state != b"Z"


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
