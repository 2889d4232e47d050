"""Which image at which step on which process."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from data.image_list import ImageList
from utils.errors import DataError, UserError
from utils.seeding import numpy_generator


class Windows(NamedTuple):
    """How images are shuffled without going to all shards at once.

    Attributes:
        shard_of: (N,) the number of each image's shard.
        shards: how many of them make a window.
    """

    shard_of: np.ndarray
    shards: int


def find_windows(images: ImageList, *, order: str, shards: int) -> Windows | None:
    """How an epoch's order keeps to some shards at a time; None for the order that does not.

    Args:
        order, shards: a config's `data.order` and `data.window_shards`.
    Raises:
        UserError: the images lie in none.
    """
    if order == "shuffled":
        return None
    if images.shard_of is None:
        raise UserError(
            f"data.order: {order} is an order of shards, but {images.root} holds image files: leave it `shuffled`, or pack them "
            "with `python -m tools.make_shards`"
        )
    return Windows(images.shard_of, shards)


def order_by_windows(rng: np.random.Generator, windows: Windows) -> np.ndarray:
    """(N,) indices of all images: shards in a random order, that many after each other a window, and images shuffled in each."""
    counts = np.bincount(windows.shard_of)
    used = np.flatnonzero(counts)
    # The fewer bytes a number has, the faster it is sorted.
    window_of = np.zeros(len(counts), dtype=np.min_scalar_type(len(used)))
    window_of[used] = rng.permutation(len(used)) // windows.shards
    places = rng.permutation(len(windows.shard_of))
    # What is shuffled already stays so within its window.
    return places[np.argsort(window_of[windows.shard_of[places]], kind="stable")]


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, image index), one seeded order an epoch whatever the number of processes.

    A global micro-batch is `world_size * batch_size` consecutive entries of the order; rank r takes the r-th contiguous
    part. So the ranks' batches, laid end to end, are the batch of one process with `world_size * batch_size`.

    Args:
        num_images: length of the listing.
        batch_size: images a process and micro-batch.
        world_size, rank: processes in all, and which one this is.
        accumulate_steps: micro-batches an optimiser step; an epoch ends with a whole optimiser step.
        seed: of the orders.
        shuffle: False keeps the listing's order.
        drop_last: False gives the short last batch too; for one process without accumulation, as evaluation runs.
        windows: None shuffles all images; else what `order_by_windows` shuffles by.
    Raises:
        DataError: fewer images than one optimiser step takes.
    """

    def __init__(
        self,
        num_images: int,
        *,
        batch_size: int,
        world_size: int,
        rank: int,
        accumulate_steps: int = 1,
        seed: int,
        shuffle: bool = True,
        drop_last: bool = True,
        windows: Windows | None = None,
    ):
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, {world_size}), not {rank}")
        if not drop_last and (world_size, accumulate_steps) != (1, 1):
            raise ValueError("drop_last=False needs one process and accumulate_steps=1: batches would differ in size")
        step = batch_size * world_size * accumulate_steps
        if num_images < (step if drop_last else 1):
            raise DataError(
                f"{num_images} images are fewer than one optimiser step takes: {step} = data.train_batch_size "
                f"{batch_size} x {world_size} processes x optimizer.accumulate_steps {accumulate_steps}; lower one"
            )
        self.num_images, self.batch_size = num_images, batch_size
        self.seed, self.shuffle, self.windows = seed, shuffle, windows
        self._global_batch, self._offset = batch_size * world_size, batch_size * rank
        whole = num_images // step * accumulate_steps
        self._num_batches = whole if drop_last else -(-num_images // batch_size)
        self.epoch, self.start_batch = 0, 0

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch that the next iteration gives, from its `start_batch`-th batch on."""
        if not 0 <= start_batch <= len(self):
            raise ValueError(f"start_batch must lie in [0, {len(self)}], not {start_batch}")
        self.epoch, self.start_batch = epoch, start_batch

    def __len__(self) -> int:
        """Batches a process and whole epoch, a multiple of `accumulate_steps`."""
        return self._num_batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self._order()
        for batch in range(self.start_batch, len(self)):
            first = batch * self._global_batch + self._offset
            yield [(self.epoch, int(index)) for index in order[first : first + self.batch_size]]

    def _order(self) -> Sequence[int] | np.ndarray:
        if not self.shuffle:
            return range(self.num_images)
        rng = numpy_generator(self.seed, self.epoch)
        return rng.permutation(self.num_images) if self.windows is None else order_by_windows(rng, self.windows)
