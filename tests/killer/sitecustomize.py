"""On PYTHONPATH, kills its process group at the KILL_AT-th file that anyone in it puts in place: KILL_WHEN is `torn` (half of the
file written), `before` or `after`. KILL_LOG is a file that grows by the name of each.
"""

import os
import signal

_replace = os.replace


def _count(target) -> int:
    """How many there are with this one."""
    with open(os.environ["KILL_LOG"], "a+", encoding="utf-8") as log:
        log.write(f"{target}\n")
        log.flush()
        log.seek(0)
        return len(log.readlines())


def replace(source, target, **options):
    mine = _count(target) == int(os.environ["KILL_AT"])
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
