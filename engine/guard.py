"""Losses that are NaN or infinite, noticed without waiting for the device at every step."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from utils.distributed import all_reduce_max, gather_objects
from utils.errors import DivergedError


class FiniteGuard:
    """Remembers, on the device, the first step whose losses were not finite.

    `update` queues device work only; `check` is where the host waits, and where all ranks agree.
    """

    def __init__(self, device: torch.device) -> None:
        self._names: tuple[str, ...] = ()
        self._first_bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self._values = torch.zeros(0, device=device)

    def update(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Look at one step's scalars: its losses, and anything else that must stay finite.

        Args:
            step: the optimiser step they belong to.
            losses: scalars on the device, under the same names at every step.
        """
        values = torch.stack([value.detach().float().reshape(()) for value in losses.values()])
        if not self._names:
            self._names, self._values = tuple(losses), torch.zeros_like(values)
        is_first = ~torch.isfinite(values).all() & (self._first_bad_step < 0)
        self._first_bad_step = torch.where(is_first, step, self._first_bad_step)
        self._values = torch.where(is_first, values, self._values)

    def check(self, rate_at: Callable[[int], float]) -> None:
        """Stop all ranks if any of them saw a loss that is not finite; all ranks must call it.

        Raises:
            DivergedError: with the first such step, its rank and loss parts, and the learning rate that `rate_at` gives for it.
        """
        if all_reduce_max(self._first_bad_step).item() < 0:
            return
        reports = gather_objects((self._first_bad_step.item(), dict(zip(self._names, self._values.tolist()))))
        step, rank = min((step, rank) for rank, (step, _) in enumerate(reports) if step >= 0)
        parts = ", ".join(f"{name} {value:g}" for name, value in reports[rank][1].items())
        raise DivergedError(
            f"losses not finite at step {step} on rank {rank}: {parts}; learning rate {rate_at(step):g}. "
            "Lower optimizer.base_lr, warm up for longer (optimizer.warmup_epochs) or use more bits (amp.opt_level: O0), "
            "and resume from the last checkpoint, which is from before this"
        )
