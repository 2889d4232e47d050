"""What a data worker of the published pipelines does with an image: every view by torchvision's transforms of PIL images.

R2O finds superpixels as it goes, DetCon-B and CYBORGS cut a mask for each view. Where and how strongly a view is changed is an
argument, so that the result can be held beside ours.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from skimage.segmentation import slic
from torch import Tensor
from torchvision.transforms import functional as F
from torchvision.transforms.functional import InterpolationMode

from data.geometry import Crop
from data.photometric import IMAGENET_MEAN, IMAGENET_STD, JITTER_ORDERS, Parameter

_JITTER = {
    Parameter.BRIGHTNESS: F.adjust_brightness,
    Parameter.CONTRAST: F.adjust_contrast,
    Parameter.SATURATION: F.adjust_saturation,
    Parameter.HUE: F.adjust_hue,
}


def open_image(path: Path) -> Image.Image:
    """As torchvision's datasets open an image."""
    with open(path, "rb") as file:
        return Image.open(file).convert("RGB")


def cut_views(image: Image.Image, crops: Sequence[Crop], photometric: np.ndarray, *, size: int) -> Tensor:
    """(V, 3, S, S) float32 normalised views by V crops and (V, P) parameters."""
    views = [_cut(image, crop, size, InterpolationMode.BICUBIC) for crop in crops]
    return torch.stack([_normalise(_change(view, row)) for view, row in zip(views, photometric)])


def cut_masks(path: Path, crops: Sequence[Crop], *, size: int) -> Tensor:
    """(V, S, S) int64 labels of a mask's file, a view at a time."""
    mask = Image.open(path)
    views = [_cut(mask, crop, size, InterpolationMode.NEAREST) for crop in crops]
    return torch.stack([torch.from_numpy(np.asarray(view).astype(np.int64)) for view in views])


def whole_with_superpixels(image: Image.Image, *, size: int, segments: int = 100) -> tuple[Tensor, Tensor]:
    """(3, S, S) float32 and the (S, S) superpixels that SLIC finds in it."""
    whole = _normalise(F.resize(image, [size, size], interpolation=InterpolationMode.BICUBIC))
    labels = slic(whole.permute(1, 2, 0).numpy().astype(np.float64), n_segments=segments, start_label=0)
    return whole, torch.from_numpy(labels)


def _cut(image: Image.Image, crop: Crop, size: int, interpolation: InterpolationMode) -> Image.Image:
    sides = np.array([image.width, image.height, image.width, image.height])
    left, top, right, bottom = (np.array(crop.box) * sides).round().astype(int).tolist()
    view = F.resized_crop(image, top, left, bottom - top, right - left, [size, size], interpolation)
    return F.hflip(view) if crop.flip else view


def _change(view: Image.Image, row: np.ndarray) -> Image.Image:
    if row[Parameter.ORDER] >= 0:
        for operation in JITTER_ORDERS[int(row[Parameter.ORDER])]:
            view = _JITTER[operation](view, float(row[operation]))
    if row[Parameter.GREY]:
        view = F.to_grayscale(view, num_output_channels=3)
    if row[Parameter.BLUR_SIGMA] > 0:
        view = view.filter(ImageFilter.GaussianBlur(radius=float(row[Parameter.BLUR_SIGMA])))
    return ImageOps.solarize(view, 128) if row[Parameter.SOLARISE] else view


def _normalise(view: Image.Image) -> Tensor:
    return F.normalize(F.to_tensor(view), IMAGENET_MEAN, IMAGENET_STD)
