"""The hours that a stage before training takes for a whole data set, and their table."""

import datetime
import platform
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import skimage
import torch

from data.felzenszwalb import compiler_versions
from utils.cores import processor_name

CORES = 64


class DataSet(NamedTuple):
    """A data set's training images."""

    name: str
    key: str
    images: int


IMAGENET = DataSet("ImageNet", "imagenet", 1_281_167)
COCO = DataSet("COCO train2017", "coco", 118_287)


@dataclass(frozen=True)
class Stage:
    """What was measured of a stage.

    Attributes:
        what: it does.
        seconds: of one core, or of the device; for an image, or for a pair of images.
        on_device: whether it is a GPU that works.
        is_of_pair: every image is compared to every one.
    """

    what: str
    seconds: float
    on_device: bool = False
    is_of_pair: bool = False

    def cost(self) -> str:
        """The time, and what it makes a second."""
        place = "GPU" if self.on_device else "core"
        if self.is_of_pair:
            return f"{1e9 * self.seconds:.3g} ns a pair, {1e-6 / self.seconds:.3g} million pairs/s/{place}"
        return f"{1e3 * self.seconds:.3g} ms an image, {1 / self.seconds:.3g} images/s/{place}"


def hours(stage: Stage, data: DataSet) -> float:
    """On 64 cores, or on one GPU, where nothing but they limits it; with the square of the images where pairs are compared."""
    times = data.images**2 if stage.is_of_pair else data.images
    return stage.seconds * times / 3600 / (1 if stage.on_device else CORES)


def table(stages: Sequence[Stage], *, pixels: float, num_images: int, device: torch.device) -> str:
    """The stages with their hours, and what they were measured on."""
    plain = next(stage for stage in stages if stage.what == "FH by scikit-image")
    lines = [
        f"| stage | time | a second | {IMAGENET.name}, hours | {COCO.name}, hours |",
        "|---|---|---|---|---|",
        *(_row(stage) for stage in stages),
    ]
    on_device = ", of one GPU where the rate is a GPU's" if any(stage.on_device for stage in stages) else ""
    texts = [
        f"Hours are those of {CORES} cores{on_device}: {IMAGENET.images:,} and {COCO.images:,} times the measured time, and for "
        "neighbours, where each image is compared to all, the squares of these numbers times that of a pair.",
        f"FH by scikit-image takes {plain.seconds / stages[0].seconds:.1f} times as long as FH, for the same labels.",
        f"{num_images} photographs of {pixels / 1e6:.2f} million pixels in the mean, {datetime.date.today().isoformat()}, "
        f"{processor_name()}, {_device(device)}, {_versions()}.",
    ]
    return "\n".join(lines + [line for text in texts for line in ("", *textwrap.wrap(text, 130))])


def _row(stage: Stage) -> str:
    time, _, rate = stage.cost().partition(", ")
    return f"| {stage.what} | {time} | {rate} | {_short(hours(stage, IMAGENET))} | {_short(hours(stage, COCO))} |"


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.1f}" if number >= 1 else f"{number:.2g}"


def _device(device: torch.device) -> str:
    return "no GPU" if device.type == "cpu" else torch.cuda.get_device_name(device)


def _versions() -> str:
    versions = {"scikit-image": skimage.__version__, **compiler_versions(), "OpenCV": cv2.__version__}
    versions |= {"torch": torch.__version__, "Python": platform.python_version()}
    return ", ".join(f"{name} {version}" for name, version in versions.items())
