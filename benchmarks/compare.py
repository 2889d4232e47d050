"""How long two forms of the same computation take, and how much memory they need. Processes' memory needs Linux and glibc."""

import ctypes
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.report import Point, Report, describe

Work = Callable[[], object]


def alternate(
    forms: dict[str, Work],
    *,
    repeats: int = 15,
    seconds: float = 20.0,
    device: torch.device | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median milliseconds of each form; they take turns, so that what else the machine does falls on all of them.

    Args:
        forms: name -> work; each runs once before, which does not count.
        repeats: rounds.
        seconds: no round begins after so long, but for the first three.
        device: waited for around each measurement.
        clock: in seconds; `time.process_time` counts what the processor does for this process alone, all threads together.
    """
    times: dict[str, list[float]] = {name: [] for name in forms}
    for work in forms.values():
        work()
    begin = time.perf_counter()
    for number in range(repeats):
        if number >= 3 and time.perf_counter() - begin > seconds:
            break
        for name, work in forms.items():
            times[name].append(_milliseconds(work, device, clock))
    return {name: statistics.median(values) for name, values in times.items()}


def _milliseconds(work: Work, device: torch.device | None, clock: Callable[[], float]) -> float:
    synchronize(device)
    begin = clock()
    work()
    synchronize(device)
    return 1e3 * (clock() - begin)


def synchronize(device: torch.device | None) -> None:
    """Wait for a GPU to have done what it was given; elsewhere nothing is waited for."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_megabytes(work: Work, device: torch.device | None = None) -> float | None:
    """How far memory rises above what it is, in MB: the device's, or this process'; None where that cannot be told."""
    if device is not None and device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    if sys.platform != "linux":
        return None
    # Freed memory that the allocator keeps would hide what is asked for again.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    work()
    return (_resident("VmHWM") - before) / 1e3


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def compare(report: Report, what: str, ours: Work, baseline: Work, *, point: Point | None = None) -> None:
    """Time both forms in turns, look at their peaks, and add a line and a row to the report.

    Args:
        what: is computed, such as "K-means".
        ours, baseline: the same computation on the same inputs; that they agree has been checked.
        point: where on the benchmark's axes.
    """
    times = alternate({"ours": ours, "baseline": baseline}, device=report.device)
    peaks = [peak_megabytes(work, report.device) for work in (ours, baseline)]
    ratio = times["baseline"] / times["ours"]
    place = f" ({describe(point)})" if point else ""
    text = f"{what}{place}: {times['ours']:.1f} ms, baseline {times['baseline']:.1f} ms, ratio {ratio:.2f}"
    memory = {}
    if None not in peaks:
        text += f"; peak {peaks[0]:.0f} MB, baseline {peaks[1]:.0f} MB"
        memory = {"ours_mb": peaks[0], "baseline_mb": peaks[1]}
    row = {"ours_ms": times["ours"], "baseline_ms": times["baseline"], "ratio": ratio}
    report.line(text, what=what, **(point or {}), **row, **memory)
