"""Batches on the device, one ahead where copying can run beside computing."""

import logging
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.readers import reader_start
from data.sampler import EpochSampler
from data.views import collate
from utils.errors import plain_errors

# What is read on the CPU: moving it to the device would make the host wait to read it back.
HOST_KEYS = ("photometric", "patch_photometric", "seed")

_log = logging.getLogger(__name__)


class Loader:
    """Iterates over an epoch's batches, in the order of `sampler`.

    Args:
        dataset: takes (epoch, index), gives what `collate` takes.
        workers: processes, one thread each; 0 reads in this process. They live as long as the loader.
        device: where batches go.
        collate: items -> batch; it keeps `unreadable`, the items' lists joined.
    Attributes:
        dataset: what the batches are made of.
        unreadable: name -> reason of the images of this epoch that this process could not read.
        num_images: length of the listing.
        batch_size: images a process and micro-batch.
    """

    def __init__(
        self,
        dataset: Dataset,
        sampler: EpochSampler,
        *,
        workers: int,
        device: torch.device,
        collate: Callable[[list[dict]], dict] = collate,
    ):
        self.dataset, self._sampler, self._device = dataset, sampler, torch.device(device)
        self._batches = DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=self._device.type == "cuda",
            persistent_workers=workers > 0,
            worker_init_fn=reader_start(),
        )
        self._warned: set[str] = set()
        self.unreadable: dict[str, str] = {}
        self.num_images, self.batch_size = sampler.num_images, sampler.batch_size

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch of the next iteration, and the batch that it starts with."""
        self._sampler.set_epoch(epoch, start_batch)
        self.unreadable.clear()

    def __len__(self) -> int:
        """Batches a process and whole epoch, wherever the next iteration starts."""
        return len(self._sampler)

    def __iter__(self) -> Iterator[dict]:
        """Batches as `collate` makes them, tensors on the device but for HOST_KEYS."""
        if self._device.type != "cuda":
            for batch in self._read():
                yield {key: self._move(key, value) for key, value in batch.items()}
            return
        yield from self._one_ahead()

    def _read(self) -> Iterator[dict]:
        with plain_errors():
            for batch in self._batches:
                self._note_unreadable(batch)
                yield batch

    def _one_ahead(self) -> Iterator[dict]:
        """On CUDA a stream of its own copies the next batch while the caller computes on this one."""
        copying, waiting = torch.cuda.Stream(self._device), None
        for batch in self._read():
            with torch.cuda.stream(copying):
                moved = {key: self._move(key, value) for key, value in batch.items()}
                event = copying.record_event()
            if waiting is not None:
                yield _arrived(*waiting)
            waiting = (moved, event)
        if waiting is not None:
            yield _arrived(*waiting)

    def _move(self, key: str, value):
        if key in HOST_KEYS or not isinstance(value, Tensor):
            return value
        return value.to(self._device, non_blocking=True)

    def _note_unreadable(self, batch: dict) -> None:
        for name, reason in batch["unreadable"]:
            self.unreadable[name] = reason
            if name not in self._warned:
                self._warned.add(name)
                _log.warning("cannot read %s (%s); another image takes its place", name, reason)


def _arrived(batch: dict, event: torch.cuda.Event) -> dict:
    """Let the computing stream wait for the copy, and keep the copy's memory until that stream is done with it."""
    current = torch.cuda.current_stream()
    current.wait_event(event)
    for value in batch.values():
        if isinstance(value, Tensor) and value.is_cuda:
            value.record_stream(current)
    return batch
