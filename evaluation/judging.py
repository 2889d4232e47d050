"""What comes after training: a test set, shared out over the processes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.utils.data import DataLoader, Dataset

from data.readers import reader_start
from engine.stop import stops_at_once
from evaluation.ordered_reading import reading_strictly
from utils.distributed import rank, world_size
from utils.errors import plain_errors
from utils.progress import ProgressBar


@contextmanager
def judging() -> Iterator[None]:
    """What comes after training: asked to stop, it ends at once, with the code that says to come back; all it takes is time."""
    # Test images come in ever new sizes, for each of which the fastest kernels would be looked for.
    torch.backends.cudnn.benchmark = False
    with stops_at_once():
        yield


def judged_batches(
    dataset: Dataset, *, batch_size: int, workers: int, device: torch.device, collate: Callable[[list], dict], desc: str
) -> Iterator[dict]:
    """This process' share of a test set, in order: every world_size()-th item, from its rank on.

    Args:
        dataset: takes an index, gives what `collate` takes.
        desc: what is counted, such as "images".
    Returns:
        Batches on the host, pinned where a GPU takes them.
    Raises:
        DataError: an image that cannot be read: a score over the others would be another score.
    """
    own = range(rank(), len(dataset), world_size())
    loader = DataLoader(
        _Strict(dataset),
        batch_sampler=[own[first : first + batch_size] for first in range(0, len(own), batch_size)],
        num_workers=workers if own else 0,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        worker_init_fn=reader_start(),
        # Without one of its own it would draw a number from the generator of the whole process.
        generator=torch.Generator(),
    )
    with plain_errors(), ProgressBar(len(own), desc=desc) as bar:
        for number, batch in enumerate(loader, start=1):
            yield batch
            bar.update(min(number * batch_size, len(own)))


class _Strict(Dataset):
    """A test set, in which an image that cannot be read is an error."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset

    def __getitem__(self, index: int) -> dict:
        with reading_strictly():
            return self._dataset[index]
