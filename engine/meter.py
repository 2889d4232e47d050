"""Averages of losses and metrics between two log lines, and where the time went."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from utils.distributed import all_reduce_sum, world_size
from utils.method import Output


class Meter:
    """Sums on the device, read with one transfer at a log line.

    Args:
        device: where losses are.
        images_per_step: images that this process takes in one optimiser step.
    """

    def __init__(self, device: torch.device, *, images_per_step: int):
        self.device, self.images_per_step = device, images_per_step
        self._begin()

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches; the time spent waiting for each is noted."""
        # An epoch's first batch waits for workers and pictures, which says nothing about the data path's speed.
        self._begin()
        source = iter(batches)
        while True:
            before = time.perf_counter()
            try:
                batch = next(source)
            except StopIteration:
                return
            self._waited += time.perf_counter() - before
            yield batch

    def add(self, output: Output) -> None:
        """Add a micro-batch's losses and metrics; `total_loss` is the sum of the losses."""
        values = {name: value.detach() for name, value in output.losses.items()} | output.metrics
        values["total_loss"] = sum(output.losses.values()).detach()
        self._outputs += 1
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value.double() if name in self._sums else value.double()

    def end_step(self) -> None:
        self._steps += 1

    def read(self) -> dict[str, float]:
        """Means over steps and processes since the last call, images/s over all processes, seconds a step, GPU memory (GiB)."""
        sums = torch.stack(list(self._sums.values()))
        means = (all_reduce_sum(sums) / world_size() / self._outputs).tolist()
        seconds = time.perf_counter() - self._since
        scalars = dict(zip(self._sums, means))
        scalars["images_per_second"] = self._steps * self.images_per_step * world_size() / seconds
        scalars["step_seconds"] = seconds / self._steps
        scalars["data_wait_share"] = self._waited / seconds
        if self.device.type == "cuda":
            scalars["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        self._begin()
        return scalars

    def _begin(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = self._outputs = 0
        self._waited, self._since = 0.0, time.perf_counter()
