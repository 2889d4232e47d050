"""Cityscapes' layout: street scenes and what every pixel of them shows.

ROOT/leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png
ROOT/gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png
"""

from pathlib import Path

import numpy as np

from data.voc import VOID, read_labels
from utils.errors import DataError

# The id in `labelIds` files of each class that is judged. Its place here is the number that it is trained under.
_ID_OF = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
CITYSCAPES_CLASSES = tuple(_ID_OF)
TRAIN_IDS = tuple(_ID_OF.values())
_NUM_IDS = 34
_IMAGE_END, _LABELS_END = "_leftImg8bit.png", "_gtFine_labelIds.png"
_NUMBERS = np.full(256, VOID, dtype=np.uint8)
_NUMBERS[list(TRAIN_IDS)] = np.arange(len(TRAIN_IDS))


class CityscapesFolder:
    """A dataset in Cityscapes' layout.

    Args:
        root: holds leftImg8bit and gtFine.
    Raises:
        DataError: it does not.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        for name in ("leftImg8bit", "gtFine"):
            if not (self.root / name).is_dir():
                raise DataError(f"{self.root / name}: no such folder; unpack Cityscapes' {name} archive there")

    def names(self, split: str) -> list[str]:
        """CITY/NAME of the images of a split, sorted.

        Raises:
            DataError: there are none.
        """
        folder = self.root / "leftImg8bit" / split
        names = sorted(
            path.relative_to(folder).as_posix().removesuffix(_IMAGE_END) for path in folder.glob(f"*/*{_IMAGE_END}")
        )
        if not names:
            raise DataError(f"{folder}: no CITY/NAME{_IMAGE_END} below it")
        return names

    def image_path(self, split: str, name: str) -> Path:
        return self.root / "leftImg8bit" / split / f"{name}{_IMAGE_END}"

    def labels_path(self, split: str, name: str) -> Path:
        return self.root / "gtFine" / split / f"{name}{_LABELS_END}"

    def segmentation(self, split: str, name: str) -> np.ndarray:
        """(H, W) uint8: a pixel's place in CITYSCAPES_CLASSES, 255 for what is not judged.

        Raises:
            DataError: no such file, or one that is damaged, in colours, or holds an id that Cityscapes has not.
        """
        path = self.labels_path(split, name)
        ids = read_labels(path)
        if ids.max(initial=0) >= _NUM_IDS:
            raise DataError(
                f"{path}: a pixel of id {ids.max()}, but Cityscapes' ids end at {_NUM_IDS - 1}: a file of another kind, such "
                "as training ids, under this name"
            )
        return _NUMBERS[ids]
