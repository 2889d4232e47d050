"""Images and the objects that people marked in them, small enough in memory to be shared by worker processes."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.ragged import Ragged
from utils.errors import DataError


class ImageObjects(NamedTuple):
    """The n objects of an image.

    boxes: (n, 4) float64 (x0, y0, x1, y1) in pixels from 0, inside the image; x1 and y1 are where a box ends.
    labels: (n,) int64, the class from 0.
    difficult: (n,) bool, objects that count neither as found nor as missed.
    size: (height, width) of the image.
    """

    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    size: tuple[int, int]


@dataclass(frozen=True)
class ObjectSet:
    """A dataset of objects in one order, the same for every process.

    Attributes:
        root: what `names` are relative to.
        names: (N,) bytes; one array, so that workers share its memory.
        ids: (N,) int64, the images' numbers in their annotations.
        sizes: (N, 2) int64, height and width.
        rows: of each image (n, 6): x0, y0, x1, y1, label, difficult.
        classes: names, in the order of the labels.
        read_masks: index -> (n, H, W) uint8 masks of the image's objects, 0 or 1; None where there are none to read.
        dropped: objects left out, being empty, outside their image, or without a usable outline.
    """

    root: Path
    names: np.ndarray
    ids: np.ndarray
    sizes: np.ndarray
    rows: Ragged
    classes: tuple[str, ...]
    read_masks: Callable[[int], np.ndarray] | None = None
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The image's path relative to `root`."""
        return os.fsdecode(self.names[index])

    def path(self, index: int) -> Path:
        return self.root / self.name(index)

    def objects(self, index: int) -> ImageObjects:
        height, width = self.sizes[index].tolist()
        rows = self.rows[index]
        return ImageObjects(rows[:, :4].copy(), rows[:, 4].astype(np.int64), rows[:, 5] > 0, (height, width))

    def masks(self, index: int) -> np.ndarray:
        """(n, H, W) uint8, 0 or 1.

        Raises:
            DataError: an outline is damaged, or the set was read without outlines.
        """
        if self.read_masks is None:
            raise DataError(f"{self.root}: no outlines of objects there; set model.masks: false")
        return self.read_masks(index)


def require_equal_classes(train: ObjectSet, test: ObjectSet) -> None:
    """A detector's numbers of classes must mean the same in both.

    Raises:
        DataError: they do not; says how many there are, and the first that differs.
    """
    if train.classes == test.classes:
        return
    pairs = zip(_padded(train.classes, len(test.classes)), _padded(test.classes, len(train.classes)))
    place, (one, other) = next((place, pair) for place, pair in enumerate(pairs) if pair[0] != pair[1])
    raise DataError(
        f"{train.root}: {len(train.classes)} classes to train on and {len(test.classes)} to be tested on ({test.root}); "
        f"number {place} differs first: {one!r} and {other!r}. Give data.train and data.val of one dataset"
    )


def _padded(classes: Sequence[str], length: int) -> list[str | None]:
    return [*classes, *[None] * (length - len(classes))]
