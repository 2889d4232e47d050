"""What changes over a run: the number of clusters, the learning rate, the momentum of the target. Pure functions."""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial

from utils.method import Progress

# Instead of a number of clusters: superpixels are used as they are.
NO_CLUSTERING = 9999
MAX_CLUSTERS = 128
CLUSTER_SCHEDULES = ("constant", "piecewise", "linear", "cosine")

# (from this share of all steps on, times the peak rate). The released code never reaches the second drop.
PIECEWISE_DROPS = ((0.96, 0.1), (0.98, 0.01))
RELEASED_PIECEWISE_DROPS = ((0.96, 0.1),)


def num_clusters(epoch: int, *, type: str, epochs: Sequence[int], values: Sequence[float]) -> tuple[float, int]:
    """R2O's curriculum: how many clusters K-means looks for in an epoch.

    Args:
        epoch: counted from 1, as the release does.
        type: `constant` (the first value), `piecewise` (each value holds from its epoch on), `linear` (straight between
            points, the outer lines prolonged) or `cosine` (a quarter of a wave between points, constant outside).
        epochs: the schedule's epochs, rising; `values`: one value for each.
    Returns:
        (k, K): the curve itself, and the number to use: k cut to a whole number, `NO_CLUSTERING` above 128, at least 1.
    Raises:
        ValueError: for an unknown type, or points that do not fit it.
    Source: R2O, section 3.3; released utils/scheduler.
    """
    check_cluster_schedule(type=type, epochs=epochs, values=values)
    # The point at or before this epoch; the first one serves the epochs before it.
    index = max(bisect_right(epochs, epoch) - 1, 0)
    if type in ("piecewise", "constant"):
        k = values[index if type == "piecewise" else 0]
    else:
        index = min(index, len(epochs) - 2)
        if type == "cosine":
            share = min(max((epoch - epochs[index]) / (epochs[index + 1] - epochs[index]), 0.0), 1.0)
            low, high = sorted(values[index : index + 2])
            # Flat at the larger value, whether the curve falls from it or rises to it.
            falls = values[index] == high
            k = low + (high - low) * (math.cos if falls else math.sin)(0.5 * math.pi * share)
        else:
            slope = (values[index + 1] - values[index]) / (epochs[index + 1] - epochs[index])
            k = values[index] + slope * (epoch - epochs[index])
    count = int(k)
    return float(k), NO_CLUSTERING if count > MAX_CLUSTERS else max(count, 1)


def clusters_by_epoch(*, type: str, epochs: Sequence[int], values: Sequence[float]) -> Callable[[int], int | None]:
    """R2O's curriculum by epochs counted from 0, None for no clustering; arguments as of `num_clusters`."""

    def clusters(epoch: int) -> int | None:
        k = num_clusters(epoch + 1, type=type, epochs=epochs, values=values)[1]
        return None if k == NO_CLUSTERING else k

    return clusters


def _warmup(step: int, *, steps: float, start: float) -> float:
    return start + (1 - start) * step / steps


def warmup_cosine(
    step: int, *, total_steps: int, warmup_steps: float, warmup_start: float = 0.0, final: float = 0.0
) -> float:
    """Share of the peak learning rate: a line to 1, then half a cosine to `final`, and that beyond `total_steps`.

    Args:
        warmup_start: where the line begins.
    """
    if step < warmup_steps:
        return _warmup(step, steps=warmup_steps, start=warmup_start)
    share = (min(step, total_steps) - warmup_steps) / max(total_steps - warmup_steps, 1)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share))


def warmup_piecewise(
    step: int,
    *,
    total_steps: int,
    warmup_steps: float,
    warmup_start: float = 0.0,
    drops: Sequence[tuple[float, float]] = PIECEWISE_DROPS,
) -> float:
    """Share of the peak learning rate: a line to 1, then 1 until the drops.

    Args:
        warmup_start: where the line begins.
        drops: (share of `total_steps` in [0, 1], share of the peak from there on), rising in the first.
    Differs: the released code stays at 1/10 to the end; `drops=RELEASED_PIECEWISE_DROPS` brings that back.
    """
    if step < warmup_steps:
        return _warmup(step, steps=warmup_steps, start=warmup_start)
    passed = [factor for begin, factor in drops if step >= begin * total_steps]
    return passed[-1] if passed else 1.0


def warmup_milestones(
    step: int, *, warmup_steps: float, milestones: Sequence[int], warmup_start: float = 0.0, drop: float = 0.1
) -> float:
    """Share of the peak learning rate: a line to 1, times `drop` from each of `milestones` on, given in steps.

    Args:
        warmup_start: where the line begins.
    Source: MoCo's schedule, 120 and 160 of 200 epochs; CYBORGS', 768 and 784 of 800.
    """
    if step < warmup_steps:
        return _warmup(step, steps=warmup_steps, start=warmup_start)
    return drop ** sum(step >= milestone for milestone in milestones)


def warmup_poly(
    step: int,
    *,
    total_steps: int,
    warmup_steps: float,
    warmup_start: float = 0.0,
    final: float = 0.0,
    power: float = 0.9,
) -> float:
    """Share of the peak learning rate: (1 - step / total_steps) to a power, never below `final`, times a line to 1 at first.

    Args:
        warmup_start: where the line begins.
    Source: DeepLab's schedule, as MMSegmentation has it, there with `final` below the curve instead of under it.
    """
    share = max(final, (1 - min(step / total_steps, 1)) ** power)
    return share if step >= warmup_steps else share * _warmup(step, steps=warmup_steps, start=warmup_start)


def ema_momentum(step: int, total_steps: int, base: float) -> float:
    """The target network's momentum: half a cosine from `base` to 1, and 1 beyond `total_steps`.

    Source: BYOL, section 3.3; R2O's released adjust_mm.
    """
    share = min(step / max(total_steps, 1), 1.0)
    return 1 - (1 - base) * (1 + math.cos(math.pi * share)) / 2


def rate_schedule(
    *,
    lr_type: str,
    base_lr: float,
    global_batch: int,
    total_steps: int,
    warmup_steps: float,
    warmup_start: float = 0.0,
    milestones: Sequence[int] = (),
    drop: float = 0.1,
    final_lr: float = 0.0,
    base_batch: int = 256,
) -> Callable[[Progress], float]:
    """The learning rate at a Progress: `base_lr` x `global_batch` / `base_batch` at its peak, warmed up and lowered as `lr_type`
    says.

    Args:
        warmup_start: share of the peak that the first step has.
        milestones: of `steps`, in steps, each of which lowers the rate to `drop` of what it was.
        final_lr: the rate that `cosine` ends at, and that `poly` does not fall below.
    """
    peak = base_lr * global_batch / base_batch
    share = {
        "constant": partial(warmup_milestones, milestones=()),
        "poly": partial(warmup_poly, total_steps=total_steps, final=final_lr / peak),
        "cosine": partial(warmup_cosine, total_steps=total_steps, final=final_lr / peak),
        "steps": partial(warmup_milestones, milestones=milestones, drop=drop),
        "piecewise": partial(warmup_piecewise, total_steps=total_steps),
        "piecewise_released": partial(warmup_piecewise, total_steps=total_steps, drops=RELEASED_PIECEWISE_DROPS),
    }[lr_type]
    return lambda progress: peak * share(progress.step, warmup_steps=warmup_steps, warmup_start=warmup_start)


def momentum_schedule(
    *, base: float, global_batch: int, reference_batch: int | None = None, rises: bool = True
) -> Callable[[Progress], float]:
    """The target's momentum at a Progress.

    Args:
        base: at the start.
        reference_batch: R, for which `base` is meant; at a global batch of B it is taken to the power B / R.
        rises: to 1, as `ema_momentum` does; else it stays.
    """
    power = 1.0 if reference_batch is None else global_batch / reference_batch
    if not rises:
        return lambda progress: base**power
    return lambda progress: ema_momentum(progress.step, progress.total_steps, base) ** power


def released_total_steps(epochs: int, num_examples: int, batch: int) -> int:
    """Steps as the release counts them: examples of all epochs over the global batch, incomplete batches included.

    Differs: our runs count the steps that the loader gives, without an epoch's incomplete last one.
    """
    return epochs * num_examples // batch


def check_cluster_schedule(*, type: str, epochs: Sequence[int], values: Sequence[float]) -> None:
    """Raise ValueError for an unknown type, or for points that do not fit it."""
    if type not in CLUSTER_SCHEDULES:
        raise ValueError(f"unknown schedule {type!r}: use one of {', '.join(CLUSTER_SCHEDULES)}")
    if len(epochs) != len(values) or not epochs:
        raise ValueError(f"a schedule needs one value an epoch, got {len(epochs)} epochs and {len(values)} values")
    if any(later <= earlier for earlier, later in zip(epochs, epochs[1:])):
        raise ValueError(f"a schedule's epochs must rise, got {list(epochs)}")
    if type in ("cosine", "linear") and len(epochs) < 2:
        raise ValueError(f"a {type} schedule needs at least two points, got {len(epochs)}")
