"""Reading a JPEG at a half, a quarter or an eighth of its size, which its decoder gives for less work than the whole."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data.image_list import File
from data.images import decode_image, decode_jpeg, is_jpeg, read_bytes
from data.inside import jpeg_size
from data.orientation import read_orientation


class Reduced(NamedTuple):
    """An image of (H, W) pixels, each `factor` of them in a row or column as one."""

    image: np.ndarray  # (ceil(H / factor), ceil(W / factor), 3) uint8
    shape: tuple[int, int]  # (H, W) of the whole, upright
    factor: int  # 1, 2, 4 or 8


def read_reduced(path: str | File, choose: Callable[[int, int], int]) -> Reduced:
    """Read an image as `read_image` does, a JPEG at the size that is asked for.

    Args:
        choose: (H, W) of the whole upright image -> the largest factor that will do. A turned or mirrored photo takes the
            largest that divides its sides, since what its last pixels lack would lie at the wrong end.
    Raises:
        UnreadableImage: as `read_image`.
    """
    data = read_bytes(path)
    stored = _stored(path, data)
    if stored is not None:
        (height, width), orientation = stored
        shape = (width, height) if orientation >= 5 else (height, width)
        factor = choose(*shape)
        while orientation > 1 and (height % factor or width % factor):
            factor //= 2
        image = decode_jpeg(path, data, factor=factor) if factor > 1 else None
        if image is not None and image.shape[:2] == tuple(-(-side // factor) for side in shape):
            return Reduced(image, shape, factor)
    image = decode_image(path, data)
    return Reduced(image, image.shape[:2], 1)


def _stored(path: str | File, data: bytes) -> tuple[tuple[int, int], int] | None:
    """((H, W) of the stored pixels, orientation) of a JPEG; None for what is none, or damaged."""
    if not is_jpeg(data):
        return None
    if b"Exif\0\0" in data:
        return read_orientation(path, data)
    size = jpeg_size(data)
    return size and ((size[1], size[0]), 1)
