"""How fast images come: one worker's milliseconds an image, and the loader's images a second."""

import time

import torch
from torch.utils.data import Dataset

from data.loader import Loader


def worker_milliseconds(dataset: Dataset, *, num_images: int, repeats: int = 3) -> float:
    """Milliseconds one core takes for an image: read, decode, cut, load the label map.

    Args:
        dataset: takes (epoch, index).
        num_images: how many of its first images to go through; they are read once before, so the disk does not count.
        repeats: passes over them; the fastest counts.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        passes = [_pass_seconds(dataset, epoch, num_images) for epoch in range(repeats + 1)][1:]
    finally:
        torch.set_num_threads(threads)
    return min(passes) / num_images * 1000


def images_per_second(loader: Loader, *, num_batches: int, warm_up: int = 2) -> float:
    """Images a second of the whole data path, batches on the device, nothing done with them.

    Args:
        loader: at least `warm_up + num_batches` batches an epoch.
        num_batches: batches to time.
        warm_up: batches before, during which the workers start.
    Raises:
        ValueError: the epoch is too short.
    """
    if len(loader) < warm_up + num_batches:
        raise ValueError(f"an epoch has {len(loader)} batches, fewer than {warm_up} + {num_batches}")
    loader.set_epoch(0)
    images = 0
    for number, batch in enumerate(loader):
        if number == warm_up:
            begin = time.perf_counter()
        elif number > warm_up:
            images += len(batch["images"])
            if number == warm_up + num_batches:
                break
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return images / (time.perf_counter() - begin)


def _pass_seconds(dataset: Dataset, epoch: int, num_images: int) -> float:
    begin = time.perf_counter()
    for index in range(num_images):
        dataset[epoch, index]
    return time.perf_counter() - begin
