"""What makes label maps of images: small settings that can be called on an image, named by the folder of their maps."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import cv2
import numpy as np
from PIL import Image

from data.felzenszwalb import fh_labels
from data.superpixels import slic_labels, superpixel_type
from utils.errors import DataError, UserError

# Felzenszwalb and Huttenlocher's own value, DetCon's too.
_SIGMA = 0.8


class MaskError(DataError):
    """An image that a maker has no label map for; says why."""


class Maker(Protocol):
    """Makes label maps of one type.

    Attributes:
        type: the folder's name below the masks' folder; tells what changes the maps.
        parameters: all that does, for the note beside the maps.
    """

    @property
    def type(self) -> str: ...

    @property
    def parameters(self) -> dict: ...

    def __call__(self, image: np.ndarray, name: str) -> np.ndarray:
        """Labels of an image, any integers.

        Args:
            image: (H, W, 3) uint8, upright.
            name: the image's path relative to its split's folder.
        Returns:
            (H, W) integers of the image's size, or of the size that the type's name ends in; others are refused.
        Raises:
            MaskError: there is none for this image.
        """
        ...


@dataclass(frozen=True)
class FH:
    """Felzenszwalb and Huttenlocher's graph-based segments of the whole image, scikit-image's.

    Attributes:
        scale: larger makes larger segments.
        min_size: pixels; smaller segments are joined to a neighbour.
    Source: DetCon, felzenszwalb in the released gen_masks_tf.py: scale and minimum size 1000.
    """

    scale: float = 1000
    min_size: int = 1000
    _name: ClassVar[str] = "fh"

    def __post_init__(self) -> None:
        is_possible = 0 < self.scale < math.inf and self.min_size >= 0
        _check(is_possible, "fh: scale must be above 0, min_size at least 0")

    @property
    def type(self) -> str:
        return self._name + _changes(self.scale, self.min_size)

    @property
    def parameters(self) -> dict:
        return {"scale": self.scale, "sigma": _SIGMA, "min_size": self.min_size}

    def __call__(self, image: np.ndarray, name: str) -> np.ndarray:
        return fh_labels(image, scale=self.scale, sigma=_SIGMA, min_size=self.min_size)


@dataclass(frozen=True)
class OpenCVFH(FH):
    """The same method by OpenCV, with other segments; `scale` and `min_size` mean the same."""

    _name: ClassVar[str] = "fh_opencv"

    def __call__(self, image: np.ndarray, name: str) -> np.ndarray:
        segmentation = cv2.ximgproc.segmentation.createGraphSegmentation(_SIGMA, self.scale, self.min_size)
        return segmentation.processImage(image)


@dataclass(frozen=True)
class Slic:
    """SLIC superpixels as R2O has them.

    Attributes:
        segments: superpixels that SLIC is asked for.
        size: side in pixels that the image is resized to; None for the image's own size.
    """

    segments: int = 100
    size: int | None = 224

    def __post_init__(self) -> None:
        _check(self.segments > 0, "slic: segments must be at least 1")
        _check(self.size is None or self.size > 0, "slic: size must be at least 1, or None for the image's own")

    @property
    def type(self) -> str:
        return superpixel_type(segments=self.segments, size=self.size)

    @property
    def parameters(self) -> dict:
        return {"size": self.size, "segments": self.segments}

    def __call__(self, image: np.ndarray, name: str) -> np.ndarray:
        return slic_labels(image, size=self.size, segments=self.segments)


@dataclass(frozen=True)
class Grid:
    """Equal rectangles, numbered down the columns; the last row and column take what is left over.

    Source: DetCon-B, create_patch_mask in the released gen_masks_tf.py.
    """

    rows: int = 3
    columns: int = 3

    def __post_init__(self) -> None:
        _check(self.rows > 0 and self.columns > 0, "grid: rows and columns must be at least 1")

    @property
    def type(self) -> str:
        return f"grid{self.rows}x{self.columns}"

    @property
    def parameters(self) -> dict:
        return {"rows": self.rows, "columns": self.columns}

    def __call__(self, image: np.ndarray, name: str) -> np.ndarray:
        row, column = (
            np.minimum(np.arange(side) // max(side // count, 1), count - 1)
            for side, count in zip(image.shape, (self.rows, self.columns))
        )
        return row[:, None] + self.rows * column[None]


@dataclass(frozen=True)
class Ground:
    """Copies label images that are there already, such as human segmentations or VOC's palette PNGs.

    Attributes:
        folder: where they lie.
        template: their path below it; {stem} stands for the image's relative path without suffix.
        type: the name of the maps' folder.
    """

    folder: str
    template: str = "{stem}.png"
    type: str = "ground"

    def __post_init__(self) -> None:
        is_name = re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.type) and not re.search(r"_\d+$", self.type)
        _check(is_name, f"{self.type}: the name is a folder's, and ends in _NUMBER only for maps of that size")

    @property
    def parameters(self) -> dict:
        return {"folder": str(Path(self.folder).resolve()), "template": self.template}

    def __call__(self, image: np.ndarray, name: str) -> np.ndarray:
        path = Path(self.folder, self.template.replace("{stem}", str(Path(name).with_suffix(""))))
        try:
            with Image.open(path) as labels:
                mode, bands = labels.mode, len(labels.getbands())
                # A palette's indices, not its colours.
                values = np.asarray(labels)
        # As in `read_image`: damaged files make PIL raise nearly anything.
        except Exception as error:
            raise MaskError(
                f"{path}: {getattr(error, 'strerror', None) or str(error) or type(error).__name__}"
            ) from error
        if bands > 1 or mode == "F":
            raise MaskError(f"{path}: {mode} pixels, but labels are a palette's indices or integers")
        return values.astype(np.uint8) if values.dtype == bool else values


def maker_of(mask_type: str) -> Maker:
    """The maker whose maps lie in a folder of this name: fh, fh_s500_m100, fh_opencv, slic100_224, slic100, grid3x3.

    Raises:
        UserError: the name tells none, as with copies of human segmentations.
    """
    maker = None
    if match := re.fullmatch(r"(fh|fh_opencv)(?:_s([\d.e+-]+)_m(\d+))?", mask_type):
        kind = {"fh": FH, "fh_opencv": OpenCVFH}[match[1]]
        maker = kind(scale=float(match[2]), min_size=int(match[3])) if match[2] else kind()
    elif match := re.fullmatch(r"slic(\d+)(?:_(\d+))?", mask_type):
        maker = Slic(segments=int(match[1]), size=match[2] and int(match[2]))
    elif match := re.fullmatch(r"grid(\d+)x(\d+)", mask_type):
        maker = Grid(rows=int(match[1]), columns=int(match[2]))
    _check(
        maker is not None and maker.type == mask_type,
        f"{mask_type}: not a type that can be made from its name alone, as fh, fh_s500_m100, fh_opencv, slic100_224, "
        "slic100 and grid3x3 can",
    )
    return maker


def _check(is_right: object, message: str) -> None:
    if not is_right:
        raise UserError(message)


def _changes(scale: float, min_size: int) -> str:
    """What a type's name adds for other parameters than DetCon's."""
    return "" if (scale, min_size) == (1000, 1000) else f"_s{repr(float(scale)).removesuffix('.0')}_m{min_size}"
