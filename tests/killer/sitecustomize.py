"""On PYTHONPATH, kills its process group at the KILL_AT-th file that anyone in it puts in place: KILL_WHEN is `torn` (half of the
file written), `before` or `after`. KILL_COUNT is a file that grows by a byte a time.
"""

import os
import signal

_replace = os.replace


def _count() -> int:
    file = os.open(os.environ["KILL_COUNT"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, b".")
    size = os.lseek(file, 0, os.SEEK_CUR)
    os.close(file)
    return size


def replace(source, target, **options):
    mine = _count() == int(os.environ["KILL_AT"])
    when = os.environ["KILL_WHEN"]
    if mine and when == "torn":
        os.truncate(source, os.path.getsize(source) // 2)
    if mine and when != "after":
        os.killpg(0, signal.SIGKILL)
    _replace(source, target, **options)
    if mine:
        os.killpg(0, signal.SIGKILL)


if "KILL_AT" in os.environ:
    os.replace = replace
