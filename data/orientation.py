"""Which way up a photo is stored, and turning what was made of the stored pixels upright."""

import io

import numpy as np
from PIL import ExifTags, Image

from data.image_list import File, as_file
from data.images import read_image


def upright_shape(path: str | File) -> tuple[int, int]:
    """(H, W) of an image as `read_image` gives it, from the file's header where that tells.

    Raises:
        UnreadableImage: as `read_image`.
    """
    stored = read_orientation(path)
    if stored is None:
        return read_image(path).shape[:2]
    (height, width), orientation = stored
    return (width, height) if orientation >= 5 else (height, width)


def read_orientation(path: str | File, data: bytes | None = None) -> tuple[tuple[int, int], int] | None:
    """((H, W) of the stored pixels, orientation 1 to 8, as EXIF counts them); None where the header does not tell.

    Args:
        data: the file's bytes, where they were read already.
    """
    try:
        with as_file(path).open("rb") if data is None else io.BytesIO(data) as file, Image.open(file) as image:
            # PIL turns TIFFs itself, and gives their header as if turned, or not, depending on its version.
            if image.format == "TIFF":
                return None
            exif = image.getexif()
            # PIL takes from XMP what EXIF lacks; OpenCV, which `read_image` reads JPEGs with, does not.
            if image.format in ("JPEG", "MPO"):
                exif = Image.Exif()
                exif.load(image.info.get("exif", b""))
            orientation = exif.get(ExifTags.Base.Orientation, 1)
            return (image.height, image.width), orientation if orientation in range(1, 9) else 1
    # As in `read_image`: damaged files make PIL raise nearly anything.
    except Exception:
        return None


def turn_upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (H, W) stored pixels as EXIF's orientation, 1 to 8, says."""
    if orientation >= 5:
        array = array.T
    # Counted from where transposing left them: 2, 3, 7, 6 mirror columns; 4, 3, 7, 8 mirror rows.
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)
