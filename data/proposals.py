"""Proposals on disk: the boxes that selective search finds, one file an image, in the order it found them."""

import ctypes
import zlib
from pathlib import Path

import cv2
import numpy as np

from data.boxes import is_inside
from data.image_list import File
from data.orientation import upright_shape
from utils.errors import DataError
from utils.files import atomic_path

SUFFIX = ".npy"
# Boxes are stored as 16-bit numbers.
_MAX_SIDE = 65535
_REMEDY = "`python -m tools.make_proposals --repair` and the options it was made with make it again"


class ProposalError(DataError, ValueError):
    """Proposals that are missing, damaged or cannot be made; names the file and the remedy.

    Attributes:
        reason: what is wrong with a file, alone; empty where there is no file.
    """

    def __init__(self, message: str, *, reason: str = ""):
        super().__init__(message)
        self.reason = reason


def proposal_type(max_side: int | None) -> str:
    """The name of the folder of proposals: ss_fast, or ss_fast_500 of images shrunk to 500 pixels."""
    return "ss_fast" if max_side is None else f"ss_fast_{max_side}"


def proposal_path(proposal_dir: str | Path, type: str, split: str, image_path: str) -> Path:
    """Where an image's proposals lie: PROPOSAL_DIR/TYPE/SPLIT/IMAGE_PATH_WITH_SUFFIX.npy.

    Args:
        proposal_dir: the folder of all types.
        type: as `proposal_type` says.
        split: train, val, ...
        image_path: relative to the split's folder, with its suffix: a.jpg and a.png are two images.
    """
    return Path(proposal_dir, type, split, image_path + SUFFIX)


def selective_search(image: np.ndarray, *, max_side: int | None = None) -> np.ndarray:
    """All boxes of OpenCV's fast selective search, in its order.

    OpenCV orders boxes partly at random, so that the order must be stored. Its random numbers are C's, seeded here by
    the image: the same image gives the same order wherever OpenCV is built the same.

    Args:
        image: (H, W, 3) uint8 RGB; the search itself is given BGR, OpenCV's order and the released code's.
        max_side: shrink the image before, so that its longer side has so many pixels; None for its own size.
    Returns:
        (n, 4) uint16 (x, y, width, height) in the image's own pixels, inside it, n >= 1.
    Raises:
        ProposalError: a side is over 65,535 pixels, or OpenCV fails.
    Source: ORL, selective_search in the released datasets/selective_search.py. Differs: max_side and the seed.
    """
    height, width = image.shape[:2]
    if max(height, width) > _MAX_SIDE:
        raise ProposalError(f"{width} x {height} pixels, but boxes hold up to {_MAX_SIDE}; make the image smaller")
    small = _shrink(image, max_side)
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    try:
        search.setBaseImage(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        search.switchToSelectiveSearchFast()
        ctypes.CDLL(None).srand(ctypes.c_uint(zlib.crc32(np.ascontiguousarray(small))))
        boxes = search.process()
    except cv2.error as error:
        reason = " ".join(str(error).split())
        raise ProposalError(f"selective search failed: {reason}; --max_side bounds what it takes") from error
    return _scaled_back(boxes.astype(np.int64), small.shape, image.shape).astype(np.uint16)


def _shrink(image: np.ndarray, max_side: int | None) -> np.ndarray:
    longer = max(image.shape[:2])
    if max_side is None or longer <= max_side:
        return image
    height, width = (max(1, round(side * max_side / longer)) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _scaled_back(boxes: np.ndarray, small: tuple[int, ...], large: tuple[int, ...]) -> np.ndarray:
    """Boxes of a shrunk image in the pixels of the image: each edge goes to the nearest border of pixels.

    Edges that differ in the small image differ in the large one too: no side becomes 0.
    """
    edges = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    sizes, divisors = np.array(large[1::-1] * 2), np.array(small[1::-1] * 2)
    edges = (2 * edges * sizes + divisors) // (2 * divisors)
    return np.concatenate([edges[:, :2], edges[:, 2:] - edges[:, :2]], axis=1)


def write_proposals(path: str | Path, boxes: np.ndarray) -> None:
    """Write an image's proposals, atomically.

    Args:
        boxes: (n, 4) uint16, as `selective_search` gives them; n may be 0.
    Raises:
        ProposalError: they are anything else.
    """
    if defect := _wrong_array(boxes):
        raise ProposalError(f"{path}: {defect}")
    with atomic_path(path) as temporary:
        np.save(temporary, boxes, allow_pickle=False)


def read_proposals(path: str | Path) -> np.ndarray:
    """Read an image's proposals.

    Returns:
        (n, 4) uint16 (x, y, width, height).
    Raises:
        ProposalError: no such file, or no complete array of boxes.
    """
    try:
        with open(path, "rb") as file:
            boxes = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise _unread(path, error.strerror or str(error)) from error
    # A damaged header makes numpy raise nearly anything, from a SyntaxError to a MemoryError.
    except Exception as error:
        raise _unread(path, "no complete .npy file") from error
    if defect := _wrong_array(boxes):
        raise _unread(path, defect)
    return boxes


def _wrong_array(boxes: np.ndarray) -> str | None:
    if boxes.dtype == np.uint16 and boxes.ndim == 2 and boxes.shape[1] == 4:
        return None
    return f"boxes are (n, 4) uint16, not {boxes.shape} {boxes.dtype}"


def _unread(path: str | Path, reason: str) -> ProposalError:
    return ProposalError(f"{path}: {reason}; {_REMEDY}", reason=reason)


def find_defect(path: str | Path, image_path: str | File) -> str | None:
    """What is wrong with an image's proposals; None where they are sound.

    Args:
        path: where they lie.
        image_path: the image; only its header is read where that suffices.
    Raises:
        UnreadableImage: there can be none.
    """
    height, width = upright_shape(image_path)
    try:
        boxes = read_proposals(path)
    except ProposalError as error:
        return error.reason
    return (
        None
        if is_inside(boxes, width=width, height=height).all()
        else f"a box is empty or outside the {width} x {height} pixels of the image"
    )
