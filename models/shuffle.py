"""MoCo's shuffled BatchNorm: images change places between processes, so that a key's statistics are not its query's."""

import torch
from torch import Tensor

from utils.distributed import all_to_all_rows, rank, world_size


class Shuffle:
    """A random exchange of every process' rows with the others', and the way back. Alone, everything stays in its place.

    Args:
        count: rows of each process.
        generator: in the same state on every process.
    Source: MoCo (He et al., 2020), section 3.3. Differs: rows travel to the process that needs them alone; the release
    gathers all of them everywhere.
    """

    def __init__(self, count: int, generator: torch.Generator):
        own, processes = rank(), world_size()
        # Row order[i] of all rows goes to process i // count.
        order = torch.randperm(count * processes, generator=generator)
        source, destination = order // count, torch.arange(len(order)) // count
        self._sent = order[source == own] % count
        self._place = self._sent.argsort()
        self._to = torch.bincount(destination[source == own], minlength=processes).tolist()
        self._from = torch.bincount(source[destination == own], minlength=processes).tolist()

    def send(self, rows: Tensor) -> Tensor:
        """(count, ...) rows of this process -> (count, ...) rows of all."""
        return all_to_all_rows(rows[_on(rows.device, self._sent)], self._to, self._from)

    def restore(self, rows: Tensor) -> Tensor:
        """What became of the rows that `send` gave, (count, ...) -> this process' own rows' results, in their order."""
        returned = all_to_all_rows(rows, self._from, self._to)
        return returned[_on(rows.device, self._place)]


def _on(device: torch.device, rows: Tensor) -> Tensor:
    return rows.to(device, non_blocking=True)
