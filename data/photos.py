"""An image read, or replaced where it cannot be."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data.image_list import ImageList
from data.images import UnreadableImage, read_image
from data.reduced import read_reduced
from utils.errors import DataError
from utils.seeding import numpy_generator

# The stream of (seed, epoch, image) that replacements are drawn from; data.views has another.
_REPLACEMENT = 1
MAX_REPLACEMENTS = 50


class Photo(NamedTuple):
    """An image that could be read, in place of the one asked for where that could not."""

    image: np.ndarray  # (H, W, 3) uint8, or (ceil(H / factor), ceil(W / factor), 3)
    index: int  # in the listing
    unreadable: list[tuple[str, str]]  # (name, reason) of those tried before
    shape: tuple[int, int]  # (H, W) of the whole image
    factor: int = 1

    @property
    def whole(self) -> tuple[float, float]:
        """Height and width of the whole image in pixels of `image`."""
        return self.shape[0] / self.factor, self.shape[1] / self.factor


def read_or_replace(
    images: ImageList, *, seed: int, epoch: int, index: int, choose: Callable[[int, int], int] | None = None
) -> Photo:
    """Read an image, or else the first readable one of a seeded row of others.

    Args:
        choose: see `read_reduced`; None reads images whole.
    Raises:
        DataError: none of 50 could be read.
    """
    candidates, unreadable = None, []
    wanted = index
    while len(unreadable) < MAX_REPLACEMENTS:
        try:
            if choose is not None:
                image, shape, factor = read_reduced(images.path(index), choose)
                return Photo(image, index, unreadable, shape, factor)
            image = read_image(images.path(index))
            return Photo(image, index, unreadable, image.shape[:2])
        except UnreadableImage as error:
            unreadable.append((images.name(index), error.reason))
        candidates = candidates or numpy_generator(seed, epoch, wanted, _REPLACEMENT)
        index = int(candidates.integers(len(images)))
    name, reason = unreadable[0]
    raise DataError(f"{images.root}: {len(unreadable)} images in a row cannot be read, such as {name}: {reason}")
