"""Views with label maps: made beforehand, or a generation every so many epochs by the run itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data.geometry import cut_labels
from data.label_maps import expected_shape, generation_type, label_map_file
from data.listing import ImageList
from data.photos import MAX_REPLACEMENTS, Photo
from data.views import TwoViews, ViewSpec
from utils.errors import DataError
from utils.seeding import numpy_generator

# Streams of one (seed, epoch, image), beside those of data.views.
_REGIONS, _ONE_LABEL, _SCRAMBLED = 2, 3, 4


class MaskedViews(TwoViews):
    """Views of whole images and of their label maps, cut alike.

    Args:
        images: the listing.
        spec: how the views are drawn.
        mask_dir, mask_type: where the label maps lie, one an image; see data.label_maps.
        num_uniforms: random numbers a view and network, by which a method draws regions.
        seed: of every draw; nothing else decides what (epoch, index) gives.
    """

    def __init__(
        self, images: ImageList, *, spec: ViewSpec, mask_dir: str | Path, mask_type: str, num_uniforms: int, seed: int
    ):
        super().__init__(images, spec=spec, seed=seed)
        self.mask_dir, self.mask_type, self.num_uniforms = mask_dir, mask_type, num_uniforms

    def __getitem__(self, key: tuple[int, int]) -> dict:
        """The item of (epoch, index): what `cut_views` gives, `seed`, `unreadable` and

        Returns:
            `labels` (V, S, S) uint8 or int32; `uniforms` (2, V, U) float32 in [0, 1), U = num_uniforms, by which regions are
            chosen on the device: for the online network, and for the target where it draws its own.
        Raises:
            LabelMapError: the image's map is missing, damaged, or of another size than its image.
            DataError: see `read_or_replace`.
        """
        photo = self._read(key)
        return self._cut_with_labels(photo, self._labels(photo, self.mask_dir, self.mask_type), key)

    def _labels(self, photo: Photo, mask_dir: str | Path, mask_type: str) -> np.ndarray:
        """(H, W) the photo's label map of a type."""
        path = label_map_file(self.images, photo.index, mask_dir=mask_dir, mask_type=mask_type)
        return self._read_map(path, photo, expected_shape(mask_type, photo.shape))

    def _cut_with_labels(self, photo: Photo, labels: np.ndarray, key: tuple[int, int]) -> dict:
        crops, item = self._cut_views(photo, key)
        rng = numpy_generator(self.seed, *key, _REGIONS)
        uniforms = rng.random((2, len(crops), self.num_uniforms), dtype=np.float32)
        return {
            **item,
            "labels": torch.stack([cut_labels(labels, crop, size=self.spec.size) for crop in crops]),
            "uniforms": torch.from_numpy(uniforms),
        }


class MaskFolder(NamedTuple):
    """Where label maps lie: MASK_DIR/TYPE."""

    mask_dir: str | Path
    mask_type: str


@dataclass(frozen=True)
class Generations:
    """Which label maps an epoch uses.

    Attributes:
        first: those of generation 0.
        mask_dir: where the others lie.
        every: epochs of a generation; None for the first one throughout.
    """

    first: MaskFolder
    mask_dir: str | Path
    every: int | None

    def number(self, epoch: int) -> int:
        """The generation of an epoch, both from 0."""
        return 0 if self.every is None else epoch // self.every

    def first_epoch(self, number: int) -> int:
        """The epoch that begins with a generation."""
        return number * (self.every or 0)

    def folder(self, number: int) -> MaskFolder:
        """Where the label maps of a generation lie."""
        return MaskFolder(self.mask_dir, generation_type(number)) if number else self.first


class BootstrappedViews(MaskedViews):
    """Views of whole images and of the label maps of the epoch's generation, cut alike.

    Args:
        images: the listing.
        spec: how the views are drawn.
        generations: which label maps an epoch uses.
        num_uniforms: random numbers a view and network, by which a method draws regions.
        scrambled: draw each pixel's label anew from its image's, an ablation.
        seed: of every draw; nothing else decides what (epoch, index) gives.
    Source: the released DetConMaskDataset; its scramble_masks raises an AttributeError.
    """

    def __init__(
        self,
        images: ImageList,
        *,
        spec: ViewSpec,
        generations: Generations,
        num_uniforms: int,
        scrambled: bool = False,
        seed: int,
    ):
        super().__init__(images, spec=spec, **generations.first._asdict(), num_uniforms=num_uniforms, seed=seed)
        self.generations, self.scrambled = generations, scrambled

    def __getitem__(self, key: tuple[int, int]) -> dict:
        """The item of (epoch, index): that of MaskedViews, and

        Returns:
            `replaced` () bool, whether the image has one label only and another took its place.
        Raises:
            LabelMapError: a map of the epoch's generation is missing, damaged, or of another size than its image.
            DataError: 50 images in a row have one label only, or see `read_or_replace`.
        """
        photo, labels, replaced = self._find(key)
        if self.scrambled:
            rng = numpy_generator(self.seed, *key, _SCRAMBLED)
            labels = rng.integers(int(labels.max()) + 1, size=labels.shape).astype(labels.dtype)
        return {**self._cut_with_labels(photo, labels, key), "replaced": torch.tensor(replaced)}

    def _find(self, key: tuple[int, int]) -> tuple[Photo, np.ndarray, bool]:
        """The photo, or the first with two labels or more of a seeded row of others, its map, and whether it is another."""
        epoch, wanted = key
        folder = self.generations.folder(self.generations.number(epoch))
        candidates, unreadable, index = None, [], wanted
        for place in range(MAX_REPLACEMENTS):
            photo = self._read((epoch, index), drawn_by=key)
            unreadable += photo.unreadable
            labels = self._labels(photo, *folder)
            # Ids are dense from 0: one label is nothing but zeros.
            if labels.any():
                return photo._replace(unreadable=unreadable), labels, place > 0
            candidates = candidates or numpy_generator(self.seed, epoch, wanted, _ONE_LABEL)
            index = int(candidates.integers(len(self.images)))
        raise DataError(
            f"{Path(*folder)}: {MAX_REPLACEMENTS} label maps in a row have one label only, such as that of "
            f"{self.images.name(wanted)}: there is nothing to compare. Make finer masks (bootstrap.min_clusters, data.mask_type)"
        )
