"""ORL's batches: two views of an image, a box of it with its jitter, and a box with its match in a neighbouring image."""

from typing import NamedTuple

import numpy as np
import torch

from data.boxes import Jitter, box_crop, is_inside, jitter_box
from data.correspondence import Correspondence
from data.geometry import cut_image
from data.images import UnreadableImage, read_image
from data.listing import ImageList
from data.orientation import upright_shape
from data.photometric import draw_photometric
from data.photos import Photo
from data.ragged import Ragged
from data.views import TwoViews, ViewSpec
from utils.errors import DataError
from utils.seeding import numpy_generator

# Beside the streams of data.views.
_PATCHES = 3


class Cut(NamedTuple):
    """A box (x, y, w, h) in pixels, and the image (H, W, 3) that it is to be cut out of."""

    image: np.ndarray
    box: tuple[int, int, int, int]
    index: int  # of the image


class BoxViews(TwoViews):
    """Views of whole images, and patches that are cut out by boxes.

    Args:
        images: the listing.
        correspondence: boxes, neighbours and pairs of these images.
        spec: how the views are drawn; patches are flipped and coloured alike, but not cropped.
        patch_size: side of a patch in pixels.
        jitter: what may become of a box.
        seed: of every draw; nothing else decides what (epoch, index) gives.
    Source: ORL, section 3.3 and the released ORLDataset. Differs: each patch is flipped on its own stream of draws.
    """

    def __init__(
        self,
        images: ImageList,
        correspondence: Correspondence,
        *,
        spec: ViewSpec,
        patch_size: int,
        jitter: Jitter,
        seed: int,
    ):
        super().__init__(images, spec=spec, seed=seed)
        self.correspondence, self.patch_size, self.jitter = correspondence, patch_size, jitter

    def __getitem__(self, key: tuple[int, int]) -> dict:
        """The item of (epoch, index): what `cut_views` gives, `seed`, `unreadable` and

        Returns:
            `patches` (4, 3, P, P) uint8: a box, its jitter, a box, its match in a neighbour; `patch_photometric` (4, C) float32.
            An image that has no match, or none in a neighbour that can be read, gives another of its boxes and its jitter.
        """
        photo = self._read(key)
        _, item = self._cut_views(photo, key)
        rng = numpy_generator(self.seed, *key, _PATCHES)
        cuts = [*self._draw_jittered(photo, rng), *self._draw_matched(photo, rng, item["unreadable"])]
        return {
            **item,
            "patches": torch.stack([self._cut(cut, rng) for cut in cuts]),
            "patch_photometric": torch.from_numpy(
                np.stack([draw_photometric(rng, one) for one in 2 * self.spec.photometric])
            ),
        }

    def _reduction(self, key: tuple[int, int], height: int, width: int) -> int:
        # Boxes are small, and their places are whole pixels.
        return 1

    def _draw_jittered(self, photo: Photo, rng: np.random.Generator) -> tuple[Cut, Cut]:
        boxes = self.correspondence.boxes[photo.index]
        height, width, _ = photo.image.shape
        box = tuple(boxes[int(rng.integers(len(boxes)))].tolist()) if len(boxes) else (0, 0, width, height)
        other = jitter_box(rng, box, width=width, height=height, spec=self.jitter)
        return Cut(photo.image, box, photo.index), Cut(photo.image, other, photo.index)

    def _draw_matched(self, photo: Photo, rng: np.random.Generator, unreadable: list) -> tuple[Cut, Cut]:
        neighbours = self.correspondence.neighbours[photo.index]
        for place in rng.permutation(len(neighbours)):
            pairs = self.correspondence.pairs_of(photo.index, int(place))
            if len(pairs) == 0:
                continue
            neighbour = int(neighbours[place])
            try:
                other = read_image(self.images.path(neighbour))
            except UnreadableImage as error:
                unreadable.append((self.images.name(neighbour), error.reason))
                continue
            pair = pairs[int(rng.integers(len(pairs)))].tolist()
            return Cut(photo.image, tuple(pair[:4]), photo.index), Cut(other, tuple(pair[4:]), neighbour)
        return self._draw_jittered(photo, rng)

    def _cut(self, cut: Cut, rng: np.random.Generator) -> torch.Tensor:
        height, width, _ = cut.image.shape
        if not is_inside(np.array([cut.box]), width=width, height=height).all():
            raise DataError(
                f"{self.images.path(cut.index)}: {width} x {height} pixels, but its box is {list(cut.box)}: the correspondence "
                "was made with other images; make it again with --stage 2, or correct files.correspondence"
            )
        flip = bool(rng.random() < self.spec.flip_probability)
        return cut_image(cut.image, box_crop(cut.box, cut.image, flip=flip), size=self.patch_size)


def count_unmatched(correspondence: Correspondence) -> int:
    """Images without any pair, whose own boxes and their jitter take its place."""
    N, K = correspondence.neighbours.shape
    return int((correspondence.pairs.lengths.reshape(N, K).sum(1) == 0).sum())


def check_boxes(images: ImageList, boxes: Ragged) -> None:
    """Refuse boxes of other images; looks at the headers of all files.

    Raises:
        DataError: a box is not inside its image; names both.
    """
    for index, own in enumerate(boxes):
        try:
            height, width = upright_shape(images.path(index))
        except UnreadableImage:
            continue
        outside = ~is_inside(own, width=width, height=height)
        if outside.any():
            raise DataError(
                f"{images.path(index)}: {width} x {height} pixels as one sees it, but its box is {own[outside][0].tolist()}: the "
                "file was made with other images, or before this one was turned by its EXIF; make it again without files.*"
            )
