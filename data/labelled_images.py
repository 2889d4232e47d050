"""Images with a class each, in ImageNet's layout: the first folder of an image's path is its class."""

import logging

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.geometry import centre_crop, cut_image
from data.images import read_image
from data.listing import ImageList
from data.photometric import PhotometricSpec
from data.photos import read_or_replace
from data.views import ViewSpec, cut_views, draw_crops
from utils.errors import DataError
from utils.seeding import numpy_generator

_log = logging.getLogger(__name__)


def class_labels(train: ImageList, *others: ImageList) -> tuple[list[str], list[np.ndarray]]:
    """The classes of a training set, in the order of their names, and every listing's labels.

    Args:
        others: listings whose classes must be among those of `train`, such as the images to test on.
    Returns:
        C names, and for each listing (N,) int64 in [0, C).
    Raises:
        DataError: images lie in no folder, there is but one class, or a listing has a class that `train` lacks.
    """
    named = [[images.class_name(index) for index in range(len(images))] for images in (train, *others)]
    for images, names in zip((train, *others), named):
        if "" in names:
            loose = images.name(names.index(""))
            raise DataError(f"{images.root}: {loose} lies in no class' folder; ImageNet's layout is CLASS/NAME.jpg")
    classes = sorted(set(named[0]))
    if len(classes) < 2:
        raise DataError(f"{train.root}: one class alone, {classes[0]}; the images' first folders must be their classes")
    for images, names in zip(others, named[1:]):
        found = set(names)
        unknown, lacking = sorted(found - set(classes)), sorted(set(classes) - found)
        if unknown:
            raise DataError(
                f"{images.root}: {len(found)} classes, of which {train.root} with its {len(classes)} lacks {len(unknown)}, "
                f"such as {unknown[0]}"
            )
        if lacking:
            _log.warning(
                "%s: %d of %d classes have no image, such as %s", images.root, len(lacking), len(classes), lacking[0]
            )
    place = {name: number for number, name in enumerate(classes)}
    return classes, [np.array([place[name] for name in names], dtype=np.int64) for names in named]


class LabelledViews(Dataset):
    """One random view of an image and the image's class.

    Args:
        labels: (N,) int64, of the listing's images.
        size: side of a view in pixels.
        min_crop: smallest share of the image's area that a view shows.
        jitter: strength of random brightness, contrast and saturation; 0 leaves colours alone.
        seed: of every draw, with the epoch and the image's number.
    """

    def __init__(
        self,
        images: ImageList,
        labels: np.ndarray,
        *,
        size: int,
        min_crop: float = 0.08,
        jitter: float = 0.0,
        seed: int,
    ):
        colours = PhotometricSpec(
            brightness=jitter,
            contrast=jitter,
            saturation=jitter,
            hue=0.0,
            jitter_probability=float(jitter > 0),
            grey_probability=0.0,
            blur_probability=0.0,
        )
        self.images, self.labels, self._seed = images, labels, seed
        self._spec = ViewSpec(size=size, scale=(min_crop, 1.0), photometric=(colours,))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        """(epoch, index) -> `images` (1, 3, S, S) uint8, `photometric` (1, P), `classes` int; see data.views.cut_views."""
        epoch, index = key
        photo = read_or_replace(self.images, seed=self._seed, epoch=epoch, index=index)
        rng = numpy_generator(self._seed, epoch, photo.index)
        view = cut_views(photo, draw_crops(rng, photo.shape, self._spec), rng, self._spec)
        return {**view, "classes": int(self.labels[photo.index]), "unreadable": photo.unreadable}


class LabelledCentres(Dataset):
    """The middle of an image and the image's class; (3, S, S) uint8 and an int.

    Args:
        labels: (N,) int64, of the listing's images.
        size: side in pixels.
    """

    def __init__(self, images: ImageList, labels: np.ndarray, *, size: int):
        self.images, self.labels, self.size = images, labels, size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = read_image(self.images.path(index))
        return cut_image(image, centre_crop(*image.shape[:2]), size=self.size), int(self.labels[index])


def collate_centres(items: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    """`images` (B, 3, S, S) uint8 and `classes` (B,) int64."""
    images, classes = zip(*items)
    return {"images": torch.stack(images), "classes": torch.tensor(classes)}
