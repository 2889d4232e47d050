"""BYOL's photometric augmentation: drawn a sample in the worker, applied to the whole batch on its device."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache, partial
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from data.blur import blur_alone, blur_together
from data.colours import brighten, change_contrast, remove_colour, saturate, shift_hue, solarise
from utils.threads import one_thread

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Smaller images are faster together, on the CPU too.
_ALONE_PIXELS = 64 * 64


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
_JITTER = {
    Parameter.BRIGHTNESS: brighten,
    Parameter.CONTRAST: change_contrast,
    Parameter.SATURATION: saturate,
    Parameter.HUE: shift_hue,
}


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
def augment(images: Tensor, parameters: Tensor, *, normalised: bool = False) -> Tensor:
    """Jitter, grey, blur and solarise every image by its own parameters, without waiting for the device.

    Args:
        images: (N, 3, S, S) uint8 on any device.
        parameters: (N, P) float32 of `draw_photometric`, ON THE CPU: which rows need what is decided there.
        normalised: `normalise` the result.
    Returns:
        (N, 3, S, S) float32, in [0, 1] unless normalised.
    Source: equals torchvision.transforms.v2.functional on float images, sample by sample; tested.
    """
    if parameters.device.type != "cpu":
        raise ValueError(f"photometric parameters must stay on the CPU, not on {parameters.device}")
    # Matrix products would otherwise run in half precision under autocast.
    with torch.autocast(images.device.type, enabled=False):
        if images.device.type == "cpu" and images.shape[-2] * images.shape[-1] >= _ALONE_PIXELS:
            return _augment_each(images, parameters, normalised)
        out = images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        _augment_together(out, parameters)
        return normalise_(out) if normalised else out


def prepare_views(images: Tensor, parameters: Tensor) -> Tensor:
    """Augment and normalise every view of a batch.

    Args:
        images: (B, V, 3, S, S) uint8 on the device; parameters: (B, V, P) on the CPU, as `augment` takes them.
    Returns:
        (B, V, 3, S, S) float32, normalised.
    """
    views = augment(images.flatten(0, 1), parameters.flatten(0, 1), normalised=True)
    return views.unflatten(0, images.shape[:2])


def normalise(images: Tensor) -> Tensor:
    """Shift and scale (..., 3, H, W) float images in [0, 1] by ImageNet's mean and standard deviation."""
    return normalise_(images.clone())


def normalise_pixels(images: Tensor) -> Tensor:
    """`normalise` (..., 3, H, W) uint8 images: float32."""
    return normalise_(images / 255)


def normalise_(images: Tensor) -> Tensor:
    """`normalise` in place; gives the images themselves."""
    mean = _constant(IMAGENET_MEAN, images.device, images.dtype)
    std = _constant(IMAGENET_STD, images.device, images.dtype)
    return images.sub_(mean).div_(std)


def _augment_each(images: Tensor, parameters: Tensor, normalised: bool) -> Tensor:
    """`augment` on the CPU: an image goes through everything while it lies in the processor's cache."""
    out = images.new_empty(images.shape, dtype=torch.float32)
    # Sharing out so little work over threads takes longer than doing it.
    with one_thread():
        for pixels, image, row in zip(images, out.split(1), parameters.tolist()):
            image[0].copy_(pixels).div_(255)
            if row[Parameter.ORDER] >= 0:
                for operation in JITTER_ORDERS[int(row[Parameter.ORDER])]:
                    _JITTER[operation](image, row[operation])
            if row[Parameter.GREY]:
                remove_colour(image)
            if row[Parameter.BLUR_SIGMA] > 0:
                blur_alone(image[0], row[Parameter.BLUR_SIGMA], kernel=int(row[Parameter.BLUR_KERNEL]))
            if row[Parameter.SOLARISE]:
                solarise(image)
            if normalised:
                normalise_(image)
    return out


def _augment_together(out: Tensor, parameters: Tensor) -> None:
    """`augment` float images in place: those that are due for an operation go through it together."""
    drawn = parameters.numpy()
    jittered = np.flatnonzero(drawn[:, Parameter.ORDER] >= 0)
    for operations in _OPERATIONS[drawn[jittered, Parameter.ORDER].astype(int)].T:
        for operation in JITTER_ORDERS[0]:
            rows = jittered[operations == operation]
            factors = _to(parameters[rows, operation], out.device)[:, None, None, None]
            _apply(out, rows, _JITTER[operation], factors)
    _apply(out, np.flatnonzero(drawn[:, Parameter.GREY]), remove_colour)
    for kernel in np.unique(drawn[:, Parameter.BLUR_KERNEL]):
        rows = np.flatnonzero((drawn[:, Parameter.BLUR_SIGMA] > 0) & (drawn[:, Parameter.BLUR_KERNEL] == kernel))
        _apply(out, rows, partial(blur_together, kernel=int(kernel)), parameters[rows, Parameter.BLUR_SIGMA])
    _apply(out, np.flatnonzero(drawn[:, Parameter.SOLARISE]), solarise)


def _apply(images: Tensor, rows: np.ndarray, change: Callable[..., None], *arguments: Tensor) -> None:
    """Let the given rows of `images` be changed."""
    if len(rows) == 0:
        return
    index = _to(torch.from_numpy(rows), images.device)
    part = images.index_select(0, index)
    change(part, *arguments)
    images.index_copy_(0, index, part)


@lru_cache(maxsize=32)
def _constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """A number a channel, (3, 1, 1), made once a device: each making would be a copy the host waits for."""
    return torch.tensor(values, device=device, dtype=dtype).view(3, 1, 1)


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)
