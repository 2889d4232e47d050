"""Reading one image file, whatever it is, into 8-bit RGB."""

import io

import cv2
import numpy as np
from PIL import Image, ImageOps

from data.image_list import File, as_file
from data.inside import check_size, jpeg_size

# The flags beside the colours; OpenCV's names of both together mean BGR.
_REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


class UnreadableImage(OSError):
    """A file that is no complete image; names the file and the reason."""

    def __init__(self, path: str | File, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self):
        # An exception is otherwise rebuilt from its message alone, and could not come back from a worker.
        return type(self), (self.path, self.reason)


def read_image(path: str | File) -> np.ndarray:
    """Read an image as one sees it: upright (EXIF), in RGB, transparency over white.

    Args:
        path: a JPEG (grey and CMYK too), or any format PIL reads, 16-bit grey included.
    Returns:
        (H, W, 3) uint8, contiguous, writable.
    Raises:
        UnreadableImage: the file is missing, empty, no image, or truncated.
    """
    return decode_image(path, read_bytes(path))


def read_bytes(path: str | File) -> bytes:
    """The whole of an image's file.

    Raises:
        UnreadableImage: it is missing, or cannot be read.
    """
    try:
        return as_file(path).read_bytes()
    except OSError as error:
        raise UnreadableImage(path, error.strerror or str(error)) from error


def decode_image(path: str | File, data: bytes) -> np.ndarray:
    """What `read_image` makes of a file's bytes; an error names `path`."""
    if not data:
        raise UnreadableImage(path, "the file is empty")
    if is_jpeg(data):
        image = decode_jpeg(path, data)
        if image is not None:
            return image
    return _decode_with_pil(path, data)


def is_jpeg(data: bytes) -> bool:
    """Whether a file begins as a JPEG."""
    return data.startswith(b"\xff\xd8\xff")


def decode_jpeg(path: str | File, data: bytes, *, factor: int = 1) -> np.ndarray | None:
    """Decode a JPEG a third faster than PIL; None for one that OpenCV refuses, which PIL then judges.

    OpenCV 5 refuses truncated files; version 4 filled the rest with grey.

    Args:
        factor: 2, 4 or 8 gives an image whose sides are so many times smaller, rounded up.
    """
    size = jpeg_size(data)
    if size is None:
        return None
    try:
        check_size(*size)
    except ValueError as error:
        raise UnreadableImage(path, str(error)) from error
    try:
        return cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR_RGB | _REDUCED[factor])
    except cv2.error:
        return None


def _decode_with_pil(path: str | File, data: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as image:
            check_size(*image.size)
            return _rgb(ImageOps.exif_transpose(image))
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage(path, "no known image format") from error
    # Damaged files make PIL's many decoders raise nearly anything, from struct.error to a decompression bomb.
    except Exception as error:
        raise UnreadableImage(path, str(error) or type(error).__name__) from error


def _rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 of any PIL mode."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed brightness; save the image with 8 or 16 bits")
    if image.mode.startswith("I"):
        # PIL would clip 16-bit grey to white instead of scaling it.
        values = np.asarray(image).astype(np.int64)
        grey = (values >> 8 if image.mode != "I" or values.max() > 255 else values).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image)
    return np.array(image.convert("RGB"))
