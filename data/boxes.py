"""Boxes of proposals: how much they overlap, which of them are kept, and a box jittered.

Boxes here are whole pixels (x, y, width, height) of the upright image, as `data.images.read_image` gives it, and not
shares of the image as a view's: selective search, the published files and the published jitter all round to pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from data.geometry import Crop


class Uniform(Protocol):
    """What random numbers are taken from, such as a numpy.random.Generator or a random.Random."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...


@dataclass(frozen=True)
class Jitter:
    """How far a box may be moved and reshaped.

    Attributes:
        shift: largest move of the centre, in widths and heights of the box.
        scale: smallest and largest factor of the area.
        ratio: smallest and largest width / height of the result, of whatever shape the box is.
        min_iou: the result overlaps the box by more than this; None for any overlap.
        attempts: draws before the box is left as it is.
    Source: ORL, ORLDataset in the released datasets/orl.py.
    """

    shift: float = 0.5
    scale: tuple[float, float] = (0.5, 2.0)
    ratio: tuple[float, float] = (0.5, 2.0)
    min_iou: float | None = 0.5
    attempts: int = 200


def is_inside(boxes: np.ndarray, *, width: int, height: int) -> np.ndarray:
    """(n,) bool: which of (n, 4) boxes have an area, and lie within an image of `width` x `height` pixels."""
    x, y, w, h = _signed(boxes).T
    return (w > 0) & (h > 0) & (x + w <= width) & (y + h <= height)


def overlaps(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes with one box.

    Args:
        boxes: (n, 4) of any integers or floats.
        box: (4,).
    Returns:
        (n,) float64 in [0, 1]; 0 where neither has an area.
    Source: ORL, get_max_iou in the released datasets/correspondence.py. Differs: that is NaN where neither has an area.
    """
    # 16-bit areas would overflow.
    x, y, width, height = _signed(boxes).T
    x0, y0, w0, h0 = _signed(box)
    across = np.minimum(x + width, x0 + w0) - np.maximum(x, x0)
    down = np.minimum(y + height, y0 + h0) - np.maximum(y, y0)
    inside = np.maximum(across, 0) * np.maximum(down, 0)
    union = width * height + w0 * h0 - inside
    return inside / np.where(union == 0, 1, union)


def _signed(boxes: np.ndarray) -> np.ndarray:
    boxes = np.asarray(boxes)
    return boxes if boxes.dtype.kind == "f" else boxes.astype(np.int64, copy=False)


def box_crop(box: Sequence[int], image: np.ndarray, *, flip: bool = False) -> Crop:
    """The crop that cuts a box out of an (H, W, 3) image."""
    x, y, w, h = (int(number) for number in box)
    height, width, _ = image.shape
    return Crop((x / width, y / height, (x + w) / width, (y + h) / height), flip)


def filter_boxes(boxes: np.ndarray, *, min_size: int, max_ratio: float, max_iou: float, top_n: int) -> np.ndarray:
    """The first boxes that are large enough, not too long, and overlap no kept one too much.

    Args:
        boxes: (n, 4) integers, sides of at least 1 pixel; their order decides.
        min_size: pixels that each side has at least.
        max_ratio: of the longer side to the shorter; math.inf for any.
        max_iou: a box that overlaps an earlier kept one by more is left out; 1 keeps all.
        top_n: the number kept at most, >= 1.
    Returns:
        (m, 4) in their order, of the same dtype: the first box alone where none is left, empty where there was none.
    Source: ORL, box_filter in the released datasets/correspondence.py. Differs: no boxes are no error.
    """
    places = _signed(boxes)
    width, height = places[:, 2:].T
    is_long = np.maximum(width / height, height / width) > max_ratio
    candidates, kept = np.flatnonzero((np.minimum(width, height) >= min_size) & ~is_long), []
    while len(candidates) and len(kept) < top_n:
        first, candidates = candidates[0], candidates[1:]
        kept.append(first)
        candidates = candidates[overlaps(places[candidates], places[first]) <= max_iou]
    return boxes[kept] if kept else boxes[:1]


def jitter_box(rng: Uniform, box: np.ndarray, *, width: int, height: int, spec: Jitter) -> tuple[int, int, int, int]:
    """A random box near a box, inside the image.

    Args:
        rng: gives four numbers an attempt: area, ratio, move across, move down.
        box: (4,) whole pixels, or a tuple of four.
        width, height: the image's size in pixels.
        spec: how far, and how often to try.
    Returns:
        (x, y, width, height); the box itself where no attempt is inside the image and overlaps enough, which is common
        for boxes that are large, long or at a border.
    Source: ORL, aug_bbox in the released datasets/orl.py. Differs: a side that rounds to 0 is an attempt that failed.
    """
    # Python's own numbers are several times faster than numpy's scalars.
    box = x, y, w, h = tuple(int(value) for value in box)
    center_x, center_y, area = x + 0.5 * w, y + 0.5 * h, w * h
    smallest, spread = spec.scale[0], spec.scale[1] - spec.scale[0]
    log_ratio = math.log(spec.ratio[0])
    log_spread = math.log(spec.ratio[1]) - log_ratio
    for _ in range(spec.attempts):
        new_area = (smallest + spread * rng.random()) * area
        ratio = math.exp(log_ratio + log_spread * rng.random())
        new_w, new_h = round(math.sqrt(new_area * ratio)), round(math.sqrt(new_area / ratio))
        new_x = round(center_x + (2 * spec.shift * rng.random() - spec.shift) * w - 0.5 * new_w)
        new_y = round(center_y + (2 * spec.shift * rng.random() - spec.shift) * h - 0.5 * new_h)
        fits = new_x >= 0 and new_y >= 0 and new_x + new_w <= width and new_y + new_h <= height
        new = new_x, new_y, new_w, new_h
        if fits and new_w and new_h and (spec.min_iou is None or _overlap(new, box) > spec.min_iou):
            return new
    return box


def _overlap(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> float:
    """`overlaps` of two boxes that have areas."""
    across = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    down = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    inside = max(across, 0) * max(down, 0)
    return inside / (first[2] * first[3] + second[2] * second[3] - inside)
