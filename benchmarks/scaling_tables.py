"""The tables of benchmarks/scaling.py: bytes of a step's collectives, their time, and where they overtake computation."""

from collections.abc import Iterable
from typing import NamedTuple

from benchmarks.network import Network, milliseconds, wire_bytes
from benchmarks.traffic import GRADIENTS, Collective

WORLDS = tuple(2**power for power in range(1, 11))
NETWORKS = (Network(gbits=25), Network(gbits=400))
# Of the tables: where one node ends, the papers' largest world, and the largest here.
SHOWN, MANY = (2, 8, 16, 32, 128, 1024), 128
STEPS_MS = (50, 100, 200, 400)


class Case(NamedTuple):
    """A method, and what its processes hand in at each size of the world."""

    name: str
    batch: int
    parts: dict[int, list[Collective]]


class Times(NamedTuple):
    """Milliseconds a step of all collectives."""

    waits: float  # of those that computation waits for
    hides: float  # of those that run while the backward pass goes on

    @property
    def total(self) -> float:
        return self.waits + self.hides


def times(parts: list[Collective], processes: int, network: Network) -> Times:
    waits = hides = 0.0
    for part in parts:
        each = [milliseconds(part.operation, size, processes, network) for size in part.sizes]
        hides += sum(each[: part.hides])
        waits += sum(each[part.hides :])
    return Times(waits, hides)


def megabytes_sent(parts: list[Collective], processes: int) -> float:
    return sum(wire_bytes(part.operation, size, processes) for part in parts for size in part.sizes) / 1e6


def share_that_hides(parts: list[Collective], processes: int) -> float:
    """Of the bytes that a process sends."""
    hidden = [part._replace(sizes=part.sizes[: part.hides]) for part in parts]
    return megabytes_sent(hidden, processes) / megabytes_sent(parts, processes)


def overtakes_compute(case: Case, step_ms: float, network: Network) -> int | None:
    """The smallest world whose collectives take longer than the step's computation; None where none of WORLDS does."""
    return next((world for world in WORLDS if times(case.parts[world], world, network).total > step_ms), None)


def gathers_overtake(case: Case) -> int | None:
    """The smallest world where all else carries more than the gradients."""

    def more(world: int) -> bool:
        gradients = [part for part in case.parts[world] if part.kind == GRADIENTS]
        return megabytes_sent(case.parts[world], world) > 2 * megabytes_sent(gradients, world)

    return next(filter(more, WORLDS), None)


def page(cases: list[Case]) -> str:
    """Every table of the page."""
    blocks = [_handed_in(cases), _sent(cases), *(_timed(cases, network) for network in NETWORKS), _crossings(cases)]
    return "\n\n".join([*blocks, *_batch_norm_waits(cases)])


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _handed_in(cases: list[Case]) -> str:
    header = ["method, images a process", "what", "operation", "calls", "kB", *(f"ms at {n.gbits:g}" for n in NETWORKS)]
    rows = []
    for case in cases:
        for part in case.parts[MANY]:
            taken = [f"{times([part], MANY, network).total:.1f}" for network in NETWORKS]
            size = f"{part.bytes / 1e3:,.1f}" if part.bytes < 1e5 else f"{part.bytes / 1e3:,.0f}"
            what = [f"{case.name}, {case.batch}", part.kind, part.operation.replace("_", "-")]
            rows.append([*what, str(len(part.sizes)), size, *taken])
    return (
        f"What a process hands in at a step, and how long that takes {MANY} processes at 25 and at 400 Gbit/s a node:\n\n"
        + _table(header, rows)
    )


def _sent(cases: list[Case]) -> str:
    rows = []
    for case in cases:
        cells = [
            f"{megabytes_sent(case.parts[world], world):,.0f} ({share_that_hides(case.parts[world], world):.0%})"
            for world in SHOWN
        ]
        world = gathers_overtake(case)
        rows.append([case.name, *cells, "never" if world is None else str(world)])
    return (
        "MB that a process sends at a step, and the share of it that can hide behind the backward pass, by number of processes; "
        "in the last column the number from which all else is more than the gradients:\n\n"
        + _table(["method", *map(str, SHOWN), "more from"], rows)
    )


def _timed(cases: list[Case], network: Network) -> str:
    rows = []
    for case in cases:
        found = [times(case.parts[world], world, network) for world in SHOWN]
        rows.append([case.name, *(f"{one.waits:,.1f} + {one.hides:,.1f}" for one in found)])
    return (
        f"Milliseconds a step at {network.gbits:g} Gbit/s: what computation waits for + what can hide behind the backward pass. "
        "Their sum is the time of a step's computation that communication equals:\n\n"
        + _table(["method", *map(str, SHOWN)], rows)
    )


def _crossings(cases: list[Case]) -> str:
    rows = []
    for case in cases:
        cells = [
            " / ".join(str(overtakes_compute(case, step, network) or "-") for network in NETWORKS) for step in STEPS_MS
        ]
        rows.append([case.name, *cells])
    return (
        f"The number of processes from which communication takes longer than computation, at 25 / at 400 Gbit/s, if a step's "
        f"computation takes so many milliseconds; - up to {WORLDS[-1]} never:\n\n"
        + _table(["method", *(f"{step} ms" for step in STEPS_MS)], rows)
    )


def _batch_norm_waits(cases: list[Case]) -> list[str]:
    """What SyncBN is of all waits, where it is there at all."""
    found = []
    for case in cases:
        norm = [part for part in case.parts[MANY] if part.kind.startswith("BatchNorm")]
        if norm:
            spent = [(times(norm, MANY, one).total, times(case.parts[MANY], MANY, one).waits) for one in NETWORKS]
            calls = sum(len(part.sizes) for part in norm)
            each = " and ".join(f"{own:.0f} of {waits:.0f} ms" for own, waits in spent)
            found.append(f"{case.name}: {calls} calls, {each}")
    if not found:
        return []
    return [f"SyncBN's part of what {MANY} processes wait for at a step, at 25 and at 400 Gbit/s: {'; '.join(found)}."]
