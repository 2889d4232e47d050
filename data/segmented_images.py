"""Lists of images with the class of every pixel."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.cityscapes import CityscapesFolder
from data.voc import VocFolder
from utils.errors import DataError


class Example(NamedTuple):
    """An image file and what reads its (H, W) uint8 classes, 255 void."""

    image: Path
    labels: Path
    read_labels: Callable[[], np.ndarray]


class SegmentedImages:
    """A list of images with their labels.

    Args:
        root: the dataset's folder.
        examples: in order.
    Raises:
        DataError: files are missing; names some.
    """

    def __init__(self, root: Path, examples: Sequence[Example]):
        self.root, self._examples = root, list(examples)
        missing = [path for example in self._examples for path in example[:2] if not path.is_file()]
        if missing:
            some = ", ".join(map(str, missing[:3]))
            raise DataError(f"{root}: {len(missing)} files are missing there, such as {some}; copy them again")

    def __len__(self) -> int:
        return len(self._examples)

    def name(self, index: int) -> str:
        return self.path(index).relative_to(self.root).as_posix()

    def path(self, index: int) -> Path:
        return self._examples[index].image

    def labels(self, index: int, image: np.ndarray) -> np.ndarray:
        """(H, W) uint8 of an (H, W, 3) image.

        Raises:
            DataError: they are damaged, or of another size.
        """
        example = self._examples[index]
        labels = example.read_labels()
        if labels.shape != image.shape[:2]:
            (height, width), (rows, columns) = image.shape[:2], labels.shape
            raise DataError(f"{example.labels}: {columns} x {rows} pixels, but {example.image} has {width} x {height}")
        return labels


def voc_examples(folder: VocFolder, split: str, *, labels: str = "SegmentationClass") -> list[Example]:
    """The examples of ImageSets/Segmentation/SPLIT.txt whose labels lie in the folder LABELS."""
    return [
        Example(
            folder.image_path(name), folder.root / labels / f"{name}.png", partial(folder.segmentation, name, labels)
        )
        for name in folder.names(split, task="Segmentation")
    ]


def cityscapes_examples(folder: CityscapesFolder, split: str) -> list[Example]:
    return [
        Example(
            folder.image_path(split, name),
            folder.labels_path(split, name),
            partial(folder.segmentation, split, name),
        )
        for name in folder.names(split)
    ]
