"""What ends a run early, and the exit code that tells a script or a scheduler why."""

import errno
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

PREEMPTED = 75


class UserError(Exception):
    """Wrong use or a wrong setting: the message says what to do, and no traceback is shown."""

    exit_code = 2


class DataError(UserError):
    """The data is missing, empty or too damaged to train on."""

    exit_code = 3


class DivergedError(UserError):
    """A loss became NaN or infinite."""

    exit_code = 4


class LostError(UserError):
    """Another process is missing, lost or stuck; the same command with --resume auto goes on from the last checkpoint."""

    exit_code = 5


class StorageError(UserError):
    """A file could not be written."""

    exit_code = 6


class Preempted(Exception):
    """The run was asked to stop and has saved itself; the same command resumes it."""

    exit_code = PREEMPTED


@contextmanager
def plain_errors() -> Iterator[None]:
    """A worker's error comes with the worker's traceback in its message; what the user needs is its last line, without the
    error's name.
    """
    try:
        yield
    except UserError as error:
        last = str(error).strip().splitlines()[-1]
        raise type(error)(last.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")) from None


_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}


@contextmanager
def explains_storage() -> Iterator[None]:
    """What the user is told where a disk is full, read-only or broken; other errors of files are left as they are."""
    try:
        yield
    except OSError as error:
        if error.errno not in _STORAGE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        raise StorageError(
            f"{where}{error.strerror}. What is on disk under its final name is whole: make room or mend the folder's rights, and "
            "--resume auto goes on from the last checkpoint"
        ) from error


@contextmanager
def explains_killed_workers(message: str) -> Iterator[None]:
    """What the user is told where a pool's process was killed, perhaps for lack of memory."""
    try:
        yield
    except BrokenProcessPool as error:
        raise UserError(message) from error
