"""BYOL's photometric augmentation: drawn a sample in the worker, applied to the whole batch on its device."""

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GREY_WEIGHTS = (0.2989, 0.587, 0.114)


class Parameter(IntEnum):
    """Columns of a sample's photometric parameters."""

    BRIGHTNESS = 0  # factors; 1 leaves the image as it is
    CONTRAST = 1
    SATURATION = 2
    HUE = 3  # shift in turns; 0 leaves the image as it is
    ORDER = 4  # index into JITTER_ORDERS; -1 without jitter
    GREY = 5  # 1 or 0
    BLUR_SIGMA = 6  # pixels; 0 without blur
    BLUR_KERNEL = 7  # pixels
    SOLARISE = 8  # 1 or 0


JITTER_ORDERS = tuple(permutations((Parameter.BRIGHTNESS, Parameter.CONTRAST, Parameter.SATURATION, Parameter.HUE)))
_OPERATIONS = np.array(JITTER_ORDERS)


@dataclass(frozen=True)
class PhotometricSpec:
    """How strongly and how often a view is altered; brightness, contrast, saturation and hue as in ColorJitter."""

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    jitter_probability: float = 0.8
    grey_probability: float = 0.2
    blur_probability: float = 1.0
    blur_kernel: int = 23
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarise_probability: float = 0.0

    def __post_init__(self):
        for name in ("jitter", "grey", "blur", "solarise"):
            probability = getattr(self, f"{name}_probability")
            if not 0 <= probability <= 1:
                raise ValueError(f"{name}_probability must lie in [0, 1], not {probability}")
        if self.blur_kernel < 1 or self.blur_kernel % 2 == 0:
            raise ValueError(f"blur_kernel must be odd and positive, not {self.blur_kernel}")
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise ValueError(f"blur_sigma must be two rising positive numbers, not {self.blur_sigma}")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue must lie in [0, 0.5], not {self.hue}")

    def at_size(self, size: int) -> "PhotometricSpec":
        """The same for views of another side than the 224 px it is meant for: the blur reaches over as much of the picture."""
        share = size / 224
        kernel = max(2 * round((self.blur_kernel - 1) / 2 * share) + 1, 3)
        return replace(self, blur_kernel=kernel, blur_sigma=(self.blur_sigma[0] * share, self.blur_sigma[1] * share))


BYOL_VIEW_1 = PhotometricSpec(blur_probability=1.0, solarise_probability=0.0)
BYOL_VIEW_2 = PhotometricSpec(blur_probability=0.1, solarise_probability=0.2)
# Both of MoCo v2's views. The released ReSim blurs before it changes colours.
MOCO_V2_VIEW = PhotometricSpec(saturation=0.4, blur_probability=0.5)
# Both views, by the name that configs have for them.
PHOTOMETRIC = {"byol": (BYOL_VIEW_1, BYOL_VIEW_2), "mocov2": (MOCO_V2_VIEW, MOCO_V2_VIEW)}


def draw_photometric(rng: np.random.Generator, spec: PhotometricSpec) -> np.ndarray:
    """Draw one sample's parameters.

    Args:
        rng: the stream of this image in this epoch; the same count of numbers is taken whatever they say.
        spec: the view's strengths and probabilities.
    Returns:
        (P,) float32, columns as in `Parameter`.
    Source: BYOL, appendix B; torchvision.transforms.ColorJitter.
    """
    # Plain floats: numpy's calls on four numbers would cost a small image's decoding.
    brightness, contrast, saturation, hue, jitter, order, grey, blur, sigma, solarise = rng.random(10).tolist()
    return np.array(
        [
            _between(max(0.0, 1 - spec.brightness), 1 + spec.brightness, brightness),
            _between(max(0.0, 1 - spec.contrast), 1 + spec.contrast, contrast),
            _between(max(0.0, 1 - spec.saturation), 1 + spec.saturation, saturation),
            _between(-spec.hue, spec.hue, hue),
            int(order * len(JITTER_ORDERS)) if jitter < spec.jitter_probability else -1,
            grey < spec.grey_probability,
            _between(*spec.blur_sigma, sigma) if blur < spec.blur_probability else 0.0,
            spec.blur_kernel,
            solarise < spec.solarise_probability,
        ],
        dtype=np.float32,
    )


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


@torch.no_grad()
def augment(images: Tensor, parameters: Tensor) -> Tensor:
    """Jitter, grey, blur and solarise every image by its own parameters, without waiting for the device.

    Args:
        images: (N, 3, S, S) uint8 on any device.
        parameters: (N, P) float32 of `draw_photometric`, ON THE CPU: which rows need what is decided there.
    Returns:
        (N, 3, S, S) float32 in [0, 1].
    Source: equals torchvision.transforms.v2.functional on float images, sample by sample; tested.
    """
    if parameters.device.type != "cpu":
        raise ValueError(f"photometric parameters must stay on the CPU, not on {parameters.device}")
    # Matrix products would otherwise run in half precision under autocast.
    with torch.autocast(images.device.type, enabled=False):
        drawn = parameters.numpy()
        out = images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        jittered = np.flatnonzero(drawn[:, Parameter.ORDER] >= 0)
        # Four turns; in each, the images that are due for an operation go through it together.
        for operations in _OPERATIONS[drawn[jittered, Parameter.ORDER].astype(int)].T:
            for operation in JITTER_ORDERS[0]:
                rows = jittered[operations == operation]
                factors = parameters[rows, operation]
                _apply(out, rows, lambda part, factors=factors, operation=operation: _jitter(part, factors, operation))
        _apply(out, np.flatnonzero(drawn[:, Parameter.GREY]), lambda part: _grey(part).expand_as(part))
        for kernel in np.unique(drawn[:, Parameter.BLUR_KERNEL]):
            rows = np.flatnonzero((drawn[:, Parameter.BLUR_SIGMA] > 0) & (drawn[:, Parameter.BLUR_KERNEL] == kernel))
            sigmas = parameters[rows, Parameter.BLUR_SIGMA]
            _apply(out, rows, lambda part, sigmas=sigmas, kernel=kernel: _blur(part, sigmas, kernel=int(kernel)))
        rows = np.flatnonzero(drawn[:, Parameter.SOLARISE])
        _apply(out, rows, lambda part: torch.where(part >= 0.5, 1 - part, part))
    return out


def prepare_views(images: Tensor, parameters: Tensor) -> Tensor:
    """Augment and normalise every view of a batch.

    Args:
        images: (B, V, 3, S, S) uint8 on the device; parameters: (B, V, P) on the CPU, as `augment` takes them.
    Returns:
        (B, V, 3, S, S) float32, normalised.
    """
    return normalise(augment(images.flatten(0, 1), parameters.flatten(0, 1))).unflatten(0, images.shape[:2])


def normalise(images: Tensor) -> Tensor:
    """Shift and scale (..., 3, H, W) float images in [0, 1] by ImageNet's mean and standard deviation."""
    mean = _constant(IMAGENET_MEAN, images.device, images.dtype)
    std = _constant(IMAGENET_STD, images.device, images.dtype)
    return (images - mean) / std


def _apply(images: Tensor, rows: np.ndarray, change) -> None:
    """Replace the given rows of `images` by what `change` makes of them."""
    if len(rows) == 0:
        return
    index = _to(torch.from_numpy(rows), images.device)
    images.index_copy_(0, index, change(images.index_select(0, index)))


def _jitter(part: Tensor, factors: Tensor, operation: Parameter) -> Tensor:
    factors = _to(factors, part.device)[:, None, None, None]
    if operation is Parameter.BRIGHTNESS:
        return part.mul_(factors).clamp_(0, 1)
    if operation is Parameter.CONTRAST:
        return torch.lerp(_grey(part.mean((2, 3), keepdim=True)), part, factors).clamp_(0, 1)
    if operation is Parameter.SATURATION:
        return torch.lerp(_grey(part), part, factors).clamp_(0, 1)
    return _shift_hue(part, factors)


def _grey(images: Tensor) -> Tensor:
    """(N, 3, H, W) to (N, 1, H, W)."""
    red, green, blue = images.split(1, dim=1)
    return (red * GREY_WEIGHTS[0]).add_(green, alpha=GREY_WEIGHTS[1]).add_(blue, alpha=GREY_WEIGHTS[2])


def _shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of (N, 3, H, W) images by (N, 1, 1, 1) turns, keeping HSV's saturation and value."""
    red, green, blue = images.split(1, dim=1)
    highest = torch.maximum(torch.maximum(red, green), blue)
    lowest = torch.minimum(torch.minimum(red, green), blue)
    chroma = highest - lowest
    # Where chroma is 0 the hue is arbitrary and multiplied by 0 below.
    scale = chroma.clamp(min=1e-12).reciprocal_()
    # sign(highest - red) is 0 where red is the highest, else 1: lerp then chooses exactly, and faster than where.
    if_red = (green - blue).mul_(scale)
    if_green = (blue - red).mul_(scale).add_(2)
    if_blue = (red - green).mul_(scale).add_(4)
    hue = torch.lerp(if_green, if_blue, (highest - green).sign_())
    hue = torch.lerp(if_red, hue, (highest - red).sign_()).add_(turns * 6)
    hue.sub_((hue / 6).floor_().mul_(6))
    # A channel's share of the chroma rises and falls with the distance of the hue from the channel's own, in sixths.
    centre = _constant((3.0, 2.0, 4.0), images.device, images.dtype)
    sign = _constant((1.0, -1.0, -1.0), images.device, images.dtype)
    offset = _constant((-1.0, 2.0, 2.0), images.device, images.dtype)
    share = (hue - centre).abs_().mul_(sign).add_(offset).clamp_(0, 1)
    return share.mul_(chroma).add_(lowest)


def _blur(images: Tensor, sigmas: Tensor, *, kernel: int) -> Tensor:
    """Gaussian blur of (N, 3, H, W) with (N,) sigmas: rows and columns each by one banded matrix a sample."""
    distance = torch.arange(kernel, dtype=torch.float32) - kernel // 2
    taps = torch.exp(-0.5 * (distance / sigmas[:, None]) ** 2)
    taps = _to(taps / taps.sum(1, keepdim=True), images.device)
    N, _, H, W = images.shape
    across = (taps @ _reflection(W, kernel, images.device)).view(N, W, W)
    down = (taps @ _reflection(H, kernel, images.device)).view(N, H, H)
    # Channels beside the columns: two wide products a sample are several times as fast on the CPU as six small ones.
    wide = torch.bmm(down, images.transpose(1, 2).reshape(N, H, 3 * W))
    return torch.bmm(wide.view(N, H * 3, W), across.transpose(1, 2)).view(N, H, 3, W).transpose(1, 2)


@lru_cache(maxsize=8)
def _reflection(size: int, kernel: int, device: torch.device) -> Tensor:
    """(kernel, size * size): for each tap the pixel of each place that it reads, borders reflected."""
    padded = torch.from_numpy(np.pad(np.arange(size), kernel // 2, mode="reflect"))
    read = torch.stack([padded[tap : tap + size] for tap in range(kernel)])
    return torch.nn.functional.one_hot(read, size).to(torch.float32).flatten(1).to(device)


@lru_cache(maxsize=32)
def _constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """A number a channel, (3, 1, 1), made once a device: each making would be a copy the host waits for."""
    return torch.tensor(values, device=device, dtype=dtype).view(3, 1, 1)


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)
