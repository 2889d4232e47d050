"""Caltech-UCSD Birds-200-2011: photographs of one bird each, and how many of five annotators see it at each pixel.

ROOT/images.txt, ROOT/train_test_split.txt      names by number, and whether they are for training
ROOT/images/CLASS/NAME.jpg
ROOT/segmentations/CLASS/NAME.png               or beside ROOT, where the second archive is unpacked there; grey, 255 for all
"""

from pathlib import Path

import numpy as np
from PIL import Image

from utils.errors import DataError


class CubFolder:
    """The dataset; called with a name, it gives the bird as `evaluation.truths.Truth` does.

    Args:
        root: such as CUB_200_2011.
    Raises:
        DataError: there is no such dataset.
    """

    background = True

    def __init__(self, root: str | Path):
        self.root = Path(root)
        places = (self.root / "segmentations", self.root.parent / "segmentations")
        self._segmentations = next((place for place in places if place.is_dir()), None)
        if self._segmentations is None:
            raise DataError(f"{root}: no folder segmentations in it or beside it; unpack segmentations.tgz there")

    def names(self, split: str) -> list[str]:
        """CLASS/NAME.jpg of the images of "train", "test" or "all", in the dataset's order.

        Raises:
            DataError: a list is missing or damaged, or has no such images.
        """
        names = self._read_list("images.txt")
        if split != "all":
            training = self._read_list("train_test_split.txt")
            wanted = {"train": "1", "test": "0"}.get(split)
            names = {number: name for number, name in names.items() if wanted and training.get(number) == wanted}
        if not names:
            raise DataError(f"{self.root}: no image in split {split!r}; there are train, test and all")
        return list(names.values())

    def image_path(self, name: str) -> Path:
        return self.root / "images" / name

    def __call__(self, name: str) -> list[np.ndarray]:
        """One (H, W) uint8: 1 where more than half of the annotators see the bird.

        Raises:
            DataError: no such file, or a damaged one.
        """
        path = (self._segmentations / name).with_suffix(".png")
        try:
            with Image.open(path) as picture:
                # A few are not plain grey.
                share = np.asarray(picture.convert("L"))
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file; the archive segmentations.tgz holds it") from error
        # Damaged files make PIL raise nearly anything.
        except Exception as error:
            raise DataError(f"{path}: {str(error) or type(error).__name__}") from error
        return [(share > 127).astype(np.uint8)]

    def _read_list(self, file: str) -> dict[str, str]:
        path = self.root / file
        try:
            rows = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}; give the folder CUB_200_2011") from error
        if any(len(row) != 2 for row in rows):
            raise DataError(f"{path}: each line must be a number and a value")
        return {number: value.strip() for number, value in rows}
