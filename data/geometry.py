"""Where a view lies in its image: drawn once as a `Crop`, then cut out of the image and of its label map alike."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class Crop(NamedTuple):
    """A view's place: cut `box` out, resize it, then mirror left to right if `flip`."""

    box: tuple[float, float, float, float]  # (x0, y0, x1, y1) in [0, 1] of the whole image
    flip: bool


WHOLE = Crop((0.0, 0.0, 1.0, 1.0), False)
# ImageNet's way to look at an image once: its shorter side to 256, of which the middle 224.
_CENTRE = 224 / 256


def centre_crop(height: int, width: int) -> Crop:
    """The middle square of an image, 224 / 256 of its shorter side."""
    side = _CENTRE * min(height, width)
    x, y = side / width / 2, side / height / 2
    return Crop((0.5 - x, 0.5 - y, 0.5 + x, 0.5 + y), False)


def draw_crop(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    flip_probability: float,
) -> Crop:
    """Draw a random resized crop on whole pixels.

    Args:
        rng: the stream of this image in this epoch.
        height, width: the image's size in pixels, >= 1.
        scale: smallest and largest share of the image's area, in (0, 1].
        ratio: smallest and largest width / height.
        flip_probability: in [0, 1].
    Returns:
        The crop; its box lies on pixel borders.
    Source: torchvision.transforms.RandomResizedCrop.get_params: ten tries, then the largest centred box of valid ratio.
    """
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * rng.random())
        aspect = math.exp(log_low + (log_high - log_low) * rng.random())
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = math.floor(rng.random() * (height - h + 1))
            left = math.floor(rng.random() * (width - w + 1))
            break
    else:
        w = max(1, min(width, round(height * ratio[1])))
        h = max(1, min(height, round(width / ratio[0])))
        top, left = (height - h) // 2, (width - w) // 2
    box = (left / width, top / height, (left + w) / width, (top + h) / height)
    return Crop(box, bool(rng.random() < flip_probability))


def largest_reduction(cuts: Iterable[tuple[Crop, int]], shape: tuple[int, int]) -> int:
    """By how much an image of (H, W) pixels can shrink, and each crop still holds its view's side but for a pixel: 1, 2, 4 or 8.

    Args:
        cuts: crops, and the sides of their views in pixels.
    """
    height, width = shape
    room = min(min(round((x1 - x0) * width), round((y1 - y0) * height)) / size for ((x0, y0, x1, y1), _), size in cuts)
    return max(factor for factor in (1, 2, 4, 8) if factor == 1 or factor <= room)


def snap(crop: Crop, whole: tuple[float, float]) -> Crop:
    """The crop whose borders are the nearest ones of pixels; `whole`: (H, W), fractions where the last pixels are cut."""
    height, width = whole
    left, right = _pixels(crop.box[0], crop.box[2], width)
    top, bottom = _pixels(crop.box[1], crop.box[3], height)
    return crop._replace(box=(left / width, top / height, min(right / width, 1.0), min(bottom / height, 1.0)))


def cut_image(image: np.ndarray, crop: Crop, *, size: int, whole: tuple[float, float] | None = None) -> Tensor:
    """Cut a view out of an image: bicubic, antialiased, in uint8.

    Args:
        image: (H, W, 3) uint8.
        crop: its box is rounded to whole pixels, at least one.
        size: side of the view in pixels.
        whole: height and width of the whole in the image's pixels, where its last ones reach beyond; by default (H, W).
    Returns:
        (3, size, size) uint8, contiguous.
    Source: within 2 grey levels of PIL's crop and resize(BICUBIC); tested.
    """
    height, width = whole or image.shape[:2]
    left, right = _pixels(crop.box[0], crop.box[2], width)
    top, bottom = _pixels(crop.box[1], crop.box[3], height)
    # Torch takes its fastest path for uint8 with channels last, and knows these by the strides, the batch's too: an axis added
    # after the channels were moved, or by numpy, has another.
    part = torch.from_numpy(np.ascontiguousarray(image[top:bottom, left:right]))[None].permute(0, 3, 1, 2)
    view = F.interpolate(part, (size, size), mode="bicubic", antialias=True)
    pixels = np.ascontiguousarray(view[0].permute(1, 2, 0).numpy())
    planes = np.empty((3, size, size), dtype=np.uint8)
    cv2.split(cv2.flip(pixels, 1) if crop.flip else pixels, list(planes))
    return torch.from_numpy(planes)


def cut_labels(labels: np.ndarray, crop: Crop, *, size: int) -> Tensor:
    """Cut the same view out of a label map, each pixel taking the label at its centre.

    Args:
        labels: (H, W) unsigned integers; its size need not be the image's.
        crop: not rounded to the label map's pixels.
        size: side of the view in pixels.
    Returns:
        (size, size), uint8 for a uint8 map, else int32.
    """
    height, width = labels.shape
    rows = _nearest(crop.box[1], crop.box[3], height, size)
    columns = _nearest(crop.box[0], crop.box[2], width, size)
    if crop.flip:
        columns = columns[::-1]
    # An axis after the other: both at once take five times as long.
    return label_tensor(labels[rows].take(columns, axis=1))


def label_tensor(labels: np.ndarray) -> Tensor:
    """A label map as a tensor: uint8 stays, all else becomes int32, since torch computes little on uint16."""
    return torch.from_numpy(labels if labels.dtype == np.uint8 else labels.astype(np.int32))


def _pixels(low: float, high: float, length: float) -> tuple[int, int]:
    """The whole pixels [first, last) nearest to the span [low, high] of an axis; never none."""
    first = min(round(low * length), math.ceil(length) - 1)
    return first, max(round(high * length), first + 1)


def _nearest(low: float, high: float, length: int, size: int) -> np.ndarray:
    """For `size` equal steps over [low, high] the pixel under each step's centre."""
    centres = low + (np.arange(size) + 0.5) / size * (high - low)
    return np.clip((centres * length).astype(np.int64), 0, length - 1)
