"""What programs that embed images share: reading in worker processes, images that must all be there, pictures as a network
takes them, and kernels that give the same numbers again.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.images import UnreadableImage
from data.photometric import normalise
from data.readers import reader_start
from engine.precision import memory_format
from utils.errors import DataError


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


@contextmanager
def reading_strictly() -> Iterator[None]:
    """The context to read an image in that is judged: where it cannot be read, that is a DataError."""
    try:
        yield
    except UnreadableImage as error:
        raise DataError(f"{error}: a score over the other images would be another score; copy it again") from error


def prepare_images(images: Tensor, device: torch.device) -> Tensor:
    """(N, 3, H, W) uint8 on the host -> normalised float32 on the device, in the memory format of its networks."""
    batch = normalise(images.to(device, non_blocking=True) / 255)
    return batch.contiguous(memory_format=memory_format(device))


def exact_kernels() -> AbstractContextManager:
    """The context to embed in: kernels chosen by their time, or with shortened numbers, would give others after a restart."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
