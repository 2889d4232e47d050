"""How long two forms of the same computation take, and how much memory they need. Memory needs Linux and glibc."""

import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """The median of `repeats` runs, after one that does not count."""
    work()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times)


def peak_megabytes(work: Callable[[], object]) -> float:
    """How far the resident memory of this process rises above what it is, in MB."""
    # Freed memory that the allocator keeps would hide what is asked for again.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    work()
    return (_resident("VmHWM") - before) / 1e3


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def report(name: str, ours: Callable[[], object], plain: Callable[[], object]) -> None:
    """Print a line on both."""
    times = milliseconds(ours, 15), milliseconds(plain, 3)
    peaks = peak_megabytes(ours), peak_megabytes(plain)
    print(
        f"{name}: {times[0]:.1f} ms, plain form {times[1]:.0f} ms, ratio {times[1] / times[0]:.1f}; "
        f"peak {peaks[0]:.0f} MB, plain form {peaks[1]:.0f} MB"
    )
