"""Where a step's time goes, part by part, in the step that training runs."""

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from unittest import mock

import torch
from torch import nn

from benchmarks.bare import around_calls, replaced
from benchmarks.compare import synchronize
from benchmarks.synthetic import Trained
from models import byol
from models.networks import networks_of

REST = "pooling and the rest"
PARTS = (
    "online forward",
    "backward",
    "target forward",
    "refinement",
    "mask conversion",
    "correspondence",
    "loss",
    "optimiser",
    "EMA",
    REST,
)
# Which part a function of a method is; what it calls may be another one.
_FUNCTIONS = {
    "find_regions": "refinement",
    "_masks_of_views": "mask conversion",
    "find_cells": "mask conversion",
    "choose_regions": "mask conversion",
    "match": "correspondence",
    "_compare": "loss",
    "_compare_images": "loss",
    "_compare_windows": "loss",
    "_cluster_loss": "loss",
    "before_step": "EMA",
    "after_step": "EMA",
}


class _Clock:
    """Each part's own milliseconds, without those of the parts that it calls."""

    def __init__(self, device: torch.device):
        self.milliseconds: dict[str, float] = defaultdict(float)
        self._device, self._running, self._since = device, [REST], 0.0

    def timed(self, name: Callable[[], str], run: Callable) -> Callable:
        def call(*args, **kwargs):
            self._turn()
            self._running.append(name())
            try:
                return run(*args, **kwargs)
            finally:
                self._turn()
                self._running.pop()

        return call

    def whole(self, run: Callable[[], object]) -> None:
        self._turn()
        self.milliseconds.clear()
        run()
        self._turn()

    def _turn(self) -> None:
        synchronize(self._device)
        now = time.perf_counter()
        self.milliseconds[self._running[-1]] += 1e3 * (now - self._since)
        self._since = now


def part_milliseconds(trained: Trained, device: torch.device, *, repeats: int = 5) -> dict[str, float]:
    """Milliseconds of each of PARTS that a step of this method has: the median of `repeats` steps.

    On a GPU each part is waited for, so that they come to more than the step, whose parts the host queues ahead.
    """
    clock, found = _Clock(device), []

    def network(module: nn.Module, run: Callable) -> Callable:
        return clock.timed(lambda: "online forward" if torch.is_grad_enabled() else "target forward", run)

    with ExitStack() as stack:
        stack.enter_context(around_calls(networks_of(trained.method), network))
        owners = [(trained.method, name, part) for name, part in _FUNCTIONS.items() if hasattr(trained.method, name)]
        owners += [(trained.precision, "backward", "backward"), (trained.precision, "step", "optimiser")]
        # BYOL and ORL compare by a function.
        loss = clock.timed(lambda: "loss", byol.masked_byol_loss)
        stack.enter_context(mock.patch.object(byol, "masked_byol_loss", loss))
        for owner, name, part in owners:
            stack.enter_context(replaced(owner, name, lambda run, part=part: clock.timed(lambda: part, run)))
        for _ in range(repeats):
            clock.whole(trained.step)
            found.append(dict(clock.milliseconds))
    middle = {part: sorted(one.get(part, 0.0) for one in found)[repeats // 2] for part in PARTS}
    return {part: value for part, value in middle.items() if any(part in one for one in found)}
