"""What the lists of a large dataset take in the memory of a machine: `python -m benchmarks.memory`.

Lists of ImageNet's and COCO's size, made up, are given to a loader whose workers read entries at random, as training does. PSS
counts memory that processes share once, divided among them: were lists copied, each worker would grow by them. Linux only.
"""

import argparse
import json
import multiprocessing
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from data.listing import ImageList
from data.ragged import Ragged
from data.readers import reader_start
from utils.cli import positive, shows_errors
from utils.shared import memory_of


class Entries(Dataset):
    """Reads the lists, and no image."""

    def __init__(self, images: ImageList | None, boxes: Ragged | None, length: int):
        self._images, self._boxes, self._length = images, boxes, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:
        found = 0
        if self._images is not None:
            found += len(self._images.name(index % len(self._images)))
        if self._boxes is not None:
            found += len(self._boxes[index % len(self._boxes)])
        return found


def make_images(count: int) -> ImageList:
    """Names as long as ImageNet's."""
    number = np.arange(count)
    names = np.char.add(np.char.mod("n%08d/", number % 1000), np.char.mod("n00000000_%08d.JPEG", number))
    return ImageList(Path("/imagenet/train"), "train", names.astype(bytes))


def make_boxes(count: int, each: int) -> Ragged:
    values = np.random.default_rng(0).integers(0, 640, (count * each, 4)).astype(np.float32)
    return Ragged(values, np.arange(count + 1) * each)


def measure(images: ImageList | None, boxes: Ragged | None, *, workers: int, entries: int) -> dict[str, float]:
    """PSS in MB of this process and of all workers, once they have read entries all over the lists."""
    loader = DataLoader(
        Entries(images, boxes, entries),
        batch_size=256,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
        worker_init_fn=reader_start(),
        generator=torch.Generator().manual_seed(0),
    )
    for _ in loader:
        pass
    children = [memory_of(child.pid) for child in multiprocessing.active_children()]
    return {"main": memory_of() / 1e6, "workers": sum(children) / 1e6}


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=positive, default=8)
    parser.add_argument("--images", type=positive, default=1_300_000)
    parser.add_argument("--boxed", type=positive, default=118_000, help="images with boxes")
    parser.add_argument("--boxes", type=positive, default=100, help="boxes an image")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args(argv)
    counts = {"workers": arguments.workers, "entries": arguments.images}
    without = measure(None, None, **counts)
    images, boxes = make_images(arguments.images), make_boxes(arguments.boxed, arguments.boxes)
    size = (images.paths.nbytes + boxes.values.nbytes + boxes.offsets.nbytes) / 1e6
    with_lists = measure(images, boxes, **counts)
    extra = sum(with_lists.values()) - sum(without.values())
    figures = {"lists_mb": size, "without_mb": without, "with_mb": with_lists, "extra_mb": extra}
    if arguments.json:
        print(json.dumps(figures))
        return 0
    print(f"lists: {size:.0f} MB; held once, {arguments.workers} workers add nothing to that")
    for name, one in (("without lists", without), ("with lists", with_lists)):
        print(f"{name}: this process {one['main']:.0f} MB, {arguments.workers} workers {one['workers']:.0f} MB")
    print(f"all processes together grew by {extra:.0f} MB, {extra / size:.2f} times the lists")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
