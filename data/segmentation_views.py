"""Images with the class of every pixel: cut and varied for training, whole for testing."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from data.images import read_image
from data.photometric import normalise
from data.photos import read_or_replace
from data.segmented_images import SegmentedImages
from data.voc import VOID
from utils.seeding import numpy_generator

# A stream of (seed, epoch, image) of its own.
_STREAM = 20
_CROP_TRIES = 10


@dataclass(frozen=True)
class SegmentationSpec:
    """How a training view is drawn.

    Attributes:
        crop: (height, width) of the view in pixels.
        size: (long, short) sides that the image is enlarged or shrunk to fit before scaling; None leaves it.
        scale: smallest and largest factor.
        max_class_share: another crop is tried, ten times, where one class fills this share of what is not void, or all.
        flip_probability: in [0, 1].
        distortion: whether brightness, contrast, saturation and hue are varied.
    """

    crop: tuple[int, int]
    size: tuple[int, int] | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 1.0
    flip_probability: float = 0.5
    distortion: bool = False


class SegmentationViews(Dataset):
    """One varied crop an image.

    Args:
        images: the training set.
        spec: how it is drawn.
        seed: of every draw; nothing else decides what (epoch, index) gives.
    Source: MMSegmentation's Resize, RandomCrop, RandomFlip, PhotoMetricDistortion and Pad, in this order. Differs: labels are
        taken at the pixels' centres, as the image is.
    """

    def __init__(self, images: SegmentedImages, *, spec: SegmentationSpec, seed: int):
        self.images, self.spec, self.seed = images, spec, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        """The item of (epoch, index).

        Returns:
            `images` (3, h, w) uint8, `segmentation` (h, w) uint8, both filled up at the right and at the bottom, labels with
            255; `extent` (2,) int64, height and width of what is not filling; `unreadable`.
        """
        photo = read_or_replace(self.images, seed=self.seed, epoch=key[0], index=key[1])
        labels = self.images.labels(photo.index, photo.image)
        spec, rng = self.spec, numpy_generator(self.seed, *key, _STREAM)
        factor = spec.scale[0] + (spec.scale[1] - spec.scale[0]) * rng.random()
        size = fitted_size(labels.shape, spec.size, factor=factor)
        image, labels = resize_image(photo.image, size), resize_labels(labels, size)
        rows, columns = draw_window(rng, labels, spec.crop, max_class_share=spec.max_class_share)
        image, labels = image[rows, columns], labels[rows, columns]
        if rng.random() < spec.flip_probability:
            image, labels = image[:, ::-1], labels[:, ::-1]
        if spec.distortion:
            image = distort(image, rng)
        below, beside = (wanted - found for wanted, found in zip(spec.crop, labels.shape))
        filling = ((0, below), (0, beside))
        return {
            "images": torch.from_numpy(np.pad(image, (*filling, (0, 0)))).permute(2, 0, 1).contiguous(),
            "segmentation": torch.from_numpy(np.pad(labels, filling, constant_values=VOID)),
            "extent": torch.tensor(labels.shape),
            "unreadable": photo.unreadable,
        }


class WholeSegmentations(Dataset):
    """Whole images and their labels.

    Args:
        images: the test set.
        size: (long, short) sides that the image is made to fit; None leaves it.
    """

    def __init__(self, images: SegmentedImages, *, size: tuple[int, int] | None):
        self.images, self.size = images, size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        """`images` (3, h, w) uint8, resized, and `segmentation` (H, W) uint8 at the size that it has on disk."""
        image = read_image(self.images.path(index))
        labels = self.images.labels(index, image)
        resized = resize_image(image, fitted_size(labels.shape, self.size))
        return {"images": torch.from_numpy(resized).permute(2, 0, 1), "segmentation": torch.from_numpy(labels.copy())}


def prepare_views(batch: dict) -> dict:
    """Normalise a batch's (B, 3, h, w) uint8 images, on their device; filling becomes 0, as bright as the mean."""
    images = normalise(batch["images"].float() / 255)
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[-2:])
    height, width = batch["extent"].T[..., None]
    inside = (rows < height)[:, :, None] & (columns < width)[:, None]
    return batch | {"images": images * inside[:, None]}


def fitted_size(shape: tuple[int, int], size: tuple[int, int] | None, *, factor: float = 1.0) -> tuple[int, int]:
    """(height, width) of an image of this shape made to fit (long, short) sides, times `factor`; at least 1 pixel.

    Source: mmcv's imrescale, whose rounding this is.
    """
    if size is not None:
        factor *= min(max(size) / max(shape), min(size) / min(shape))
    height, width = (max(int(side * factor + 0.5), 1) for side in shape)
    return height, width


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 at (height, width), bilinear, without antialiasing, as MMSegmentation does."""
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8 at (height, width), each pixel taking the label at its centre."""
    return cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def draw_window(
    rng: np.random.Generator, labels: np.ndarray, crop: tuple[int, int], *, max_class_share: float
) -> tuple[slice, slice]:
    """Rows and columns of a crop; fewer than wanted where the image is smaller."""
    for _ in range(_CROP_TRIES + 1):
        starts = [int(rng.integers(max(length - side, 0) + 1)) for length, side in zip(labels.shape, crop)]
        rows, columns = (slice(start, start + side) for start, side in zip(starts, crop))
        if max_class_share >= 1:
            break
        counts = np.bincount(labels[rows, columns].ravel(), minlength=VOID + 1)[:VOID]
        if np.count_nonzero(counts) > 1 and counts.max() < max_class_share * counts.sum():
            break
    return rows, columns


def distort(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vary brightness, contrast, saturation and hue of an (H, W, 3) uint8 image, each with a chance of one half.

    Source: MMSegmentation's PhotoMetricDistortion: brightness by up to 32, factors of contrast and saturation in [0.5, 1.5],
        hue by up to 18 degrees of OpenCV's 180; contrast before or after the colours.
    """
    chances, values, contrast_first = rng.random(4) < 0.5, rng.uniform(-1, 1, 4), rng.random() < 0.5
    brightness, contrast, saturation = 32 * values[0], 1 + 0.5 * values[1], 1 + 0.5 * values[2]
    if chances[0]:
        image = _linear(image, 1, brightness)
    if chances[1] and contrast_first:
        image = _linear(image, contrast, 0)
    if chances[2] or chances[3]:
        hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV)
        if chances[2]:
            hsv[:, :, 1] = _linear(hsv[:, :, 1], saturation, 0)
        if chances[3]:
            hsv[:, :, 0] = (hsv[:, :, 0].astype(int) + round(18 * values[3])) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if chances[1] and not contrast_first:
        image = _linear(image, contrast, 0)
    return image


def _linear(values: np.ndarray, factor: float, offset: float) -> np.ndarray:
    return np.clip(values.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)
