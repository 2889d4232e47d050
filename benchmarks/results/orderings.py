"""What the papers say ranks above what, and whether the results do."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from benchmarks.results.summary import MAIN_METRIC, UNTRAINED, Difference, Row, difference

OBJECT_LEVEL = ("r2o", "detconb_fh", "resim", "orl", "cyborgs")
IMAGE_LEVEL = ("byol", "mocov2")
# R2O's regions made otherwise: K fixed, and superpixels that stay.
FIXED_K = ("r2o_k4", "r2o_k32", "r2o_k128")
UNREFINED = "r2o_fixed"
CEILING = "detconb_gt"
# CYBORGS with the masks that it begins with.
FIRST_MASKS = "cyborgs_grid"
SUPERVISED = ("supervised_classes", "supervised_pixels")
_WITHOUT_LABELS = (*OBJECT_LEVEL, *IMAGE_LEVEL, *FIXED_K, UNREFINED, CEILING)
VARIATION = "variation"
# In standard deviations: what is called noise, and what a method must be above the untrained backbone.
NOISE = 2
CLEARLY = 3


class Ordering(NamedTuple):
    """One row is said to lie above the best of some others."""

    first: str
    others: tuple[str, ...]


FAMILIES: Mapping[str, tuple[Ordering, ...]] = {
    "Object-level above image-level": tuple(
        Ordering(method, (baseline,)) for method in OBJECT_LEVEL for baseline in IMAGE_LEVEL
    ),
    "R2O's curriculum above each fixed K and above no refinement": tuple(
        Ordering("r2o", (name,)) for name in (*FIXED_K, UNREFINED)
    ),
    "Bootstrapped masks (CYBORGS) above fixed ones": (
        Ordering("cyborgs", ("detconb_fh",)),
        Ordering("cyborgs", (FIRST_MASKS,)),
    ),
    "Ground-truth masks above FH masks (DetCon-B)": (Ordering(CEILING, ("detconb_fh",)),),
    "Supervised above all without labels": tuple(Ordering(name, _WITHOUT_LABELS) for name in SUPERVISED),
}


class Judged(NamedTuple):
    """An ordering in one metric.

    verdict: "yes", "no", "within noise"; "higher" or "lower" where no row has seeds to tell noise by.
    means: of the first row and of the best of the others.
    best: the title of the best of the others.
    """

    verdict: str
    means: tuple[float, float]
    best: str
    difference: Difference


def judge(ordering: Ordering, metric: str, rows: Mapping[str, Row]) -> Judged | None:
    """Whether an ordering holds; None where either side was not measured."""
    others = [rows[name] for name in ordering.others if name in rows and rows[name].mean(metric) is not None]
    if ordering.first not in rows or not others:
        return None
    best = max(others, key=lambda row: row.mean(metric))
    first = rows[ordering.first]
    found = difference(first, best, metric, rows.values())
    if found is None:
        return None
    return Judged(_verdict(found), (first.mean(metric), best.mean(metric)), best.title, found)


def _verdict(found: Difference) -> str:
    if found.deviations is None:
        return "higher" if found.gain > 0 else "lower"
    if abs(found.deviations) <= NOISE:
        return "within noise"
    return "yes" if found.gain > 0 else "no"


class Learned(NamedTuple):
    """A row beside the untrained backbone.

    verdict: "yes"; "the mean" where its mean is clearly above, but its seeds differ so much that it is not by their deviation;
        "FAILED" where neither is; "one seed" where it is above and nothing tells noise.
    """

    row: Row
    verdict: str
    difference: Difference


def learned(rows: Mapping[str, Row], metric: str = MAIN_METRIC) -> list[Learned]:
    """Each row but the variations beside the untrained one; empty where that was not measured."""
    if UNTRAINED not in rows:
        return []
    found = [
        (row, difference(row, rows[UNTRAINED], metric, rows.values()))
        for row in rows.values()
        # A variation is there to show what fails.
        if row.name != UNTRAINED and row.group != VARIATION
    ]
    return [Learned(row, _clearly(one), one) for row, one in found if one is not None]


def _clearly(found: Difference) -> str:
    if found.deviations is None:
        return "one seed" if found.gain > 0 else "FAILED"
    if found.deviations > CLEARLY:
        return "yes"
    # The deviation of one seed is borrowed, and a mean of one is none.
    return "the mean" if found.is_own and found.errors > CLEARLY else "FAILED"


def not_run(names: Iterable[str]) -> list[str]:
    """Of the rows that orderings speak of, those that are not among these."""
    wanted = dict.fromkeys([UNTRAINED, *SUPERVISED, *_WITHOUT_LABELS, FIRST_MASKS])
    return [name for name in wanted if name not in set(names)]
