"""What programs that embed images share: reading in worker processes, and kernels that give the same numbers again."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from data.readers import reader_start


def read_in_order(dataset: Dataset, order: Sequence[int], *, workers: int, device: torch.device) -> Iterator[Any]:
    """The items `order` of a dataset, one by one, read ahead by `workers` processes; in pinned memory where a GPU takes them."""
    loader = DataLoader(
        dataset,
        sampler=order,
        batch_size=None,
        num_workers=workers if len(order) else 0,
        worker_init_fn=reader_start(),
        pin_memory=device.type == "cuda",
        # Without one of its own it would draw a number from the generator of the whole process.
        generator=torch.Generator(),
    )
    return iter(loader)


def exact_kernels() -> AbstractContextManager:
    """The context to embed in: kernels chosen by their time, or with shortened numbers, would give others after a restart."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
