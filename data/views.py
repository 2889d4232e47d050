"""What the methods' batches are made of: an image's views cut, and its label map cut or loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from data.geometry import WHOLE, Crop, cut_image, draw_crop, label_tensor, largest_reduction, snap
from data.image_list import File, ImageList
from data.images import read_image
from data.label_maps import LabelMapError, label_map_file, read_label_map
from data.photometric import BYOL_VIEW_1, BYOL_VIEW_2, PhotometricSpec, draw_photometric
from data.photos import Photo, read_or_replace
from data.superpixels import slic_labels, superpixel_type
from utils.seeding import derive_seed, numpy_generator

# The stream of (seed, epoch, image) that views are drawn from; data.photos has another.
_VIEWS = 0


@dataclass(frozen=True)
class ViewSpec:
    """How the views of an image are drawn: one view for each entry of `photometric`.

    Attributes:
        size: side of a view in pixels.
        scale, ratio, flip_probability: as in `draw_crop`.
        photometric: one a view.
        shared_flip: all views of an image are mirrored, or none.
        dct_scaling: read a JPEG at the smallest size of which its views are still cut without being enlarged; their crops move
            to its pixels' borders, by half a pixel of the view at most.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    photometric: tuple[PhotometricSpec, ...] = (BYOL_VIEW_1, BYOL_VIEW_2)
    shared_flip: bool = False
    dct_scaling: bool = False


def draw_crops(rng: np.random.Generator, shape: tuple[int, int], spec: ViewSpec) -> list[Crop]:
    """One crop a view of an image of (H, W) pixels."""
    height, width = shape
    geometry = {"scale": spec.scale, "ratio": spec.ratio, "flip_probability": spec.flip_probability}
    crops = [draw_crop(rng, height, width, **geometry) for _ in spec.photometric]
    return [crop._replace(flip=crops[0].flip) for crop in crops] if spec.shared_flip else crops


def cut_views(photo: Photo, crops: Sequence[Crop], rng: np.random.Generator, spec: ViewSpec) -> dict:
    """The views of an image, V = len(crops), S = spec.size.

    Returns:
        `images` (V, 3, S, S) uint8, `boxes` (V, 4) float32 in [0, 1], `flips` (V,) bool, `photometric` (V, P) float32.
    """
    return {
        "images": torch.stack([cut_image(photo.image, crop, size=spec.size, whole=photo.whole) for crop in crops]),
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
        # What is cut out of every image besides, and its side in pixels.
        self._fixed_cuts: tuple[tuple[Crop, int], ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        """The item of (epoch, index): what `cut_views` gives, `seed` and `unreadable`."""
        return self._cut_views(self._read(key), key)[1]

    def _read(self, key: tuple[int, int], *, drawn_by: tuple[int, int] | None = None) -> Photo:
        """The photo of a key, whose crops are drawn by that key or another."""
        epoch, index = key
        choose = partial(self._reduction, drawn_by or key) if self.spec.dct_scaling else None
        return read_or_replace(self.images, seed=self.seed, epoch=epoch, index=index, choose=choose)

    def _reduction(self, key: tuple[int, int], height: int, width: int) -> int:
        """The factor that an image may shrink by, which hangs on its size and its crops alone."""
        shape = height, width
        crops = draw_crops(numpy_generator(self.seed, *key, _VIEWS), shape, self.spec)
        return largest_reduction([*self._fixed_cuts, *((crop, self.spec.size) for crop in crops)], shape)

    def _cut_views(self, photo: Photo, key: tuple[int, int]) -> tuple[list[Crop], dict]:
        """The photo's crops, for what else a method cuts by them, and the item."""
        rng = numpy_generator(self.seed, *key, _VIEWS)
        crops = draw_crops(rng, photo.shape, self.spec)
        if photo.factor > 1:
            # So that boxes and label maps say exactly what the view shows.
            crops = [snap(crop, photo.whole) for crop in crops]
        views = cut_views(photo, crops, rng, self.spec)
        return crops, {**views, "seed": derive_seed(self.seed, *key), "unreadable": photo.unreadable}

    def _read_map(self, path: File, photo: Photo, shape: tuple[int, int]) -> np.ndarray:
        """The photo's label map, which must have this shape."""
        labels = read_label_map(path)
        if labels.shape != shape:
            height, width = shape
            raise LabelMapError(
                f"{path}: {labels.shape[1]} x {labels.shape[0]} pixels where {self.images.path(photo.index)} needs "
                f"{width} x {height}; the map belongs to another image or size: delete it and make it again"
            )
        return labels


class R2OViews(TwoViews):
    """Two views, the whole image as the third, spanning one, and its superpixels.

    Args:
        images: the listing.
        spec: how the two views are drawn.
        spanning_size: side of the spanning view in pixels; by default that of the views.
        superpixel_size: side of the superpixels' map in pixels.
        segments: superpixels that SLIC is asked for.
        mask_dir: where `tools.make_masks` put the maps; None computes them each time, about 60 ms an image.
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
        self._fixed_cuts = ((WHOLE, self.spanning_size),)
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
        photo = self._read(key)
        _, item = self._cut_views(photo, key)
        return {**item, **self._whole(photo)}

    def whole(self, key: tuple[int, int]) -> dict:
        """What the item of (epoch, index) says of the whole image, without its views: `spanning`, `superpixels`, `seed` and
        `unreadable`. Raises as `__getitem__`.
        """
        photo = self._read(key)
        return {**self._whole(photo), "seed": derive_seed(self.seed, *key), "unreadable": photo.unreadable}

    def _reduction(self, key: tuple[int, int], height: int, width: int) -> int:
        # Superpixels are made of the whole image, which would be decoded once more.
        return 1 if self.mask_dir is None else super()._reduction(key, height, width)

    def _whole(self, photo: Photo) -> dict:
        return {
            "spanning": cut_image(photo.image, WHOLE, size=self.spanning_size, whole=photo.whole),
            "superpixels": label_tensor(self._superpixels(photo)),
        }

    def _superpixels(self, photo: Photo) -> np.ndarray:
        size, path = self.superpixel_size, None
        if self.mask_dir is not None:
            path = label_map_file(self.images, photo.index, mask_dir=self.mask_dir, mask_type=self.mask_type)
        # A map may be missing where an image was repaired, or a map deleted, after all were noted as made.
        if path is None or not path.exists():
            image = photo.image if photo.factor == 1 else read_image(self.images.path(photo.index))
            return slic_labels(image, size=size, segments=self.segments)
        return self._read_map(path, photo, (size, size))


# Label maps of a batch, and what the largest number of their labels is called.
_COUNTS = {"superpixels": "num_superpixels", "labels": "num_labels"}


def collate(items: list[dict]) -> dict:
    """Stack items to a batch: tensors get a leading B, `seed` becomes (B,) int64, `unreadable` lists are joined.

    Returns:
        The batch; with `superpixels` also `num_superpixels`, with `labels` also `num_labels`: the batch's largest count, an
        int, since a device would have to be waited for to learn it.
    """
    unreadable = [entry for item in items for entry in item["unreadable"]]
    stacked = [{key: value for key, value in item.items() if key != "unreadable"} for item in items]
    maps = _COUNTS.keys() & stacked[0].keys()
    for key in maps:
        # One image with more than 256 labels makes its whole batch int32.
        if len({item[key].dtype for item in stacked}) > 1:
            stacked = [{**item, key: item[key].int()} for item in stacked]
    batch = default_collate(stacked)
    counts = {_COUNTS[key]: int(batch[key].max()) + 1 for key in maps}
    return {**batch, **counts, "unreadable": unreadable}
