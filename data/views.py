"""What the methods' batches are made of: an image read or replaced, its views cut, and its label map cut or loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from data.geometry import WHOLE, Crop, cut_image, draw_crop, label_tensor
from data.images import UnreadableImage, read_image
from data.label_maps import LabelMapError, label_map_path, read_label_map
from data.listing import ImageList
from data.photometric import BYOL_VIEW_1, BYOL_VIEW_2, PhotometricSpec, draw_photometric
from data.superpixels import slic_labels, superpixel_type
from utils.errors import DataError
from utils.seeding import derive_seed, numpy_generator

# Streams of one (seed, epoch, image) that must not be each other's.
_VIEWS, _REPLACEMENT = 0, 1
_MAX_REPLACEMENTS = 50


@dataclass(frozen=True)
class ViewSpec:
    """How the views of an image are drawn: one view for each entry of `photometric`.

    Attributes:
        size: side of a view in pixels.
        scale, ratio, flip_probability: as in `draw_crop`.
        photometric: one a view.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    photometric: tuple[PhotometricSpec, ...] = (BYOL_VIEW_1, BYOL_VIEW_2)


class Photo(NamedTuple):
    """An image that could be read, in place of the one asked for where that could not."""

    image: np.ndarray  # (H, W, 3) uint8
    index: int  # in the listing
    unreadable: list[tuple[str, str]]  # (name, reason) of those tried before


def read_or_replace(images: ImageList, *, seed: int, epoch: int, index: int) -> Photo:
    """Read an image, or else the first readable one of a seeded row of others.

    Raises:
        DataError: none of 50 could be read.
    """
    candidates, unreadable = None, []
    wanted = index
    while len(unreadable) < _MAX_REPLACEMENTS:
        try:
            return Photo(read_image(images.path(index)), index, unreadable)
        except UnreadableImage as error:
            unreadable.append((images.name(index), error.reason))
        candidates = candidates or numpy_generator(seed, epoch, wanted, _REPLACEMENT)
        index = int(candidates.integers(len(images)))
    name, reason = unreadable[0]
    raise DataError(f"{images.root}: {len(unreadable)} images in a row cannot be read, such as {name}: {reason}")


def draw_crops(rng: np.random.Generator, image: np.ndarray, spec: ViewSpec) -> list[Crop]:
    """One crop a view of an (H, W, 3) image."""
    height, width, _ = image.shape
    geometry = {"scale": spec.scale, "ratio": spec.ratio, "flip_probability": spec.flip_probability}
    return [draw_crop(rng, height, width, **geometry) for _ in spec.photometric]


def cut_views(image: np.ndarray, crops: Sequence[Crop], rng: np.random.Generator, spec: ViewSpec) -> dict:
    """The views of an image, V = len(crops), S = spec.size.

    Returns:
        `images` (V, 3, S, S) uint8, `boxes` (V, 4) float32 in [0, 1], `flips` (V,) bool, `photometric` (V, P) float32.
    """
    return {
        "images": torch.stack([cut_image(image, crop, size=spec.size) for crop in crops]),
        "boxes": torch.from_numpy(np.array([crop.box for crop in crops], dtype=np.float32)),
        "flips": torch.from_numpy(np.array([crop.flip for crop in crops])),
        "photometric": torch.from_numpy(np.stack([draw_photometric(rng, one) for one in spec.photometric])),
    }


class TwoViews(Dataset):
    """Views of whole images, as image-level methods take them.

    Args:
        images: the listing.
        spec: how views are drawn.
        seed: of every draw; nothing else decides what (epoch, index) gives.
    """

    def __init__(self, images: ImageList, *, spec: ViewSpec, seed: int):
        self.images, self.spec, self.seed = images, spec, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        """The item of (epoch, index): what `cut_views` gives, `seed` and `unreadable`."""
        return self._read_and_cut(key)[1]

    def _read_and_cut(self, key: tuple[int, int]) -> tuple[Photo, dict]:
        """The photo, for what else a method takes of it, and the item."""
        epoch, index = key
        photo = read_or_replace(self.images, seed=self.seed, epoch=epoch, index=index)
        rng = numpy_generator(self.seed, epoch, index, _VIEWS)
        views = cut_views(photo.image, draw_crops(rng, photo.image, self.spec), rng, self.spec)
        return photo, {**views, "seed": derive_seed(self.seed, epoch, index), "unreadable": photo.unreadable}


class R2OViews(TwoViews):
    """Two views, the whole image as the third, spanning one, and its superpixels.

    Args:
        images: the listing.
        spec: how the two views are drawn.
        spanning_size: side of the spanning view in pixels; by default that of the views.
        superpixel_size: side of the superpixels' map in pixels.
        segments: superpixels that SLIC is asked for.
        mask_dir: where `tools.make_superpixels` put the maps; None computes them each time, about 60 ms an image.
        seed: of every draw; nothing else decides what (epoch, index) gives.
    Source: R2O, section 3. Differs: the release always flips both views (spec.flip_probability 1 brings it back).
    """

    def __init__(
        self,
        images: ImageList,
        *,
        spec: ViewSpec,
        spanning_size: int | None = None,
        superpixel_size: int = 224,
        segments: int = 100,
        mask_dir: str | Path | None,
        seed: int,
    ):
        super().__init__(images, spec=spec, seed=seed)
        self.spanning_size = spanning_size or spec.size
        self.superpixel_size, self.segments = superpixel_size, segments
        self.mask_dir = mask_dir
        self.mask_type = superpixel_type(segments=segments, size=superpixel_size)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        """The item of (epoch, index): what `cut_views` gives, and

        Returns:
            `spanning` (3, S', S') uint8, `superpixels` (S'', S'') uint8 or int32, dense from 0, `seed` int, and
            `unreadable`, a list of (name, reason).
        Raises:
            LabelMapError: the image's map is damaged, or of another size; a missing one is computed.
            DataError: see `read_or_replace`.
        """
        photo, item = self._read_and_cut(key)
        return {
            **item,
            "spanning": cut_image(photo.image, WHOLE, size=self.spanning_size),
            "superpixels": label_tensor(self._superpixels(photo)),
        }

    def _superpixels(self, photo: Photo) -> np.ndarray:
        size, path = self.superpixel_size, None
        if self.mask_dir is not None:
            path = label_map_path(self.mask_dir, self.mask_type, self.images.split, self.images.name(photo.index))
        # A map may be missing where an image was repaired, or a map deleted, after all were noted as made.
        if path is None or not path.exists():
            return slic_labels(photo.image, size=size, segments=self.segments)
        labels = read_label_map(path)
        if labels.shape != (size, size):
            raise LabelMapError(f"{path}: {labels.shape} where {(size, size)} is needed; delete it and make it again")
        return labels


def collate(items: list[dict]) -> dict:
    """Stack items to a batch: tensors get a leading B, `seed` becomes (B,) int64, `unreadable` lists are joined.

    Returns:
        The batch; with `superpixels` also `num_superpixels`, the largest count of the batch, an int.
    """
    unreadable = [entry for item in items for entry in item["unreadable"]]
    stacked = [{key: value for key, value in item.items() if key != "unreadable"} for item in items]
    if "superpixels" not in stacked[0]:
        return {**default_collate(stacked), "unreadable": unreadable}
    # One image with more than 256 superpixels makes its whole batch int32.
    if len({item["superpixels"].dtype for item in stacked}) > 1:
        for item in stacked:
            item["superpixels"] = item["superpixels"].int()
    batch = default_collate(stacked)
    return {**batch, "num_superpixels": int(batch["superpixels"].max()) + 1, "unreadable": unreadable}
