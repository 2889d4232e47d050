"""The data path of each method on a folder of photographs: our dataset, its parts, and the published pipelines' shape."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.baselines import data_path as published
from data.box_views import BoxViews
from data.boxes import Jitter, box_crop, jitter_box
from data.correspondence import Correspondence
from data.geometry import WHOLE, Crop, cut_image, cut_labels, label_tensor
from data.images import decode_image, read_image
from data.label_maps import enlarge, label_map_path, read_label_map, write_label_map
from data.listing import ImageList, find_images
from data.mask_makers import OpenCVFH
from data.masked_views import BootstrappedViews, Generations, MaskedViews, MaskFolder
from data.photometric import PHOTOMETRIC, draw_photometric
from data.ragged import Ragged
from data.superpixels import slic_labels
from data.views import R2OViews, TwoViews, ViewSpec, draw_crops

METHODS = ("r2o", "detconb", "resim", "orl", "cyborgs")
# Of CYBORGS, regions of 56 x 56 cells.
_SLIC, _FH, _REGIONS = "slic100_224", "fh", "regions"
_UNIFORMS = 16  # random numbers a view, by which DetCon-B draws regions
_PATCH = 96  # side of an ORL patch

Part = Callable[[int], object]


def make_folder(folder: Path, photographs: Sequence[Path], *, longer: int | None) -> ImageList:
    """Photographs, copied, or resized to a longer side in pixels, with label maps below FOLDER/masks."""
    for number, source in enumerate(photographs):
        target = folder / "images" / "train" / f"{number:04d}{source.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(read_image(source))
        if longer in (None, max(image.size)):
            shutil.copyfile(source, target)
        else:
            scale = longer / max(image.size)
            sides = [max(round(side * scale), 1) for side in image.size]
            image.resize(sides, Image.Resampling.LANCZOS).save(target, "JPEG", quality=90)
        image = read_image(target)
        coarse = enlarge(slic_labels(image, size=56, segments=20), image.shape[:2])
        for kind, labels in ((_SLIC, slic_labels(image)), (_FH, OpenCVFH()(image, "")), (_REGIONS, coarse)):
            write_label_map(label_map_path(folder / "masks", kind, "train", target.name), labels)
    return find_images(folder, split="train")


@dataclass(frozen=True)
class Pipeline:
    """One method's data path.

    Attributes:
        dataset: ours.
        mask_dir: where label maps lie.
        kind: of those that are cut with the views; None without.
    """

    method: str
    dataset: TwoViews
    mask_dir: Path
    kind: str | None

    @cached_property
    def items(self) -> list[dict[str, Any]]:
        return [self.dataset[0, index] for index in range(len(self.dataset))]

    @cached_property
    def _crops(self) -> list[list[Crop]]:
        return [
            [Crop(tuple(box), flip) for box, flip in zip(item["boxes"].tolist(), item["flips"].tolist())]
            for item in self.items
        ]

    def _map(self, kind: str, index: int) -> Path:
        images = self.dataset.images
        return label_map_path(self.mask_dir, kind, images.split, images.name(index))

    def parts(self) -> dict[str, Part]:
        """What the dataset does with an image, one after the other; inputs are made beforehand."""
        images, spec, crops = self.dataset.images, self.dataset.spec, self._crops
        if spec.dct_scaling:
            # Decoding then depends on all that follows.
            return {}
        files = [images.path(index).read_bytes() for index in range(len(images))]
        photos = [read_image(images.path(index)) for index in range(len(images))]
        rng = np.random.default_rng(0)
        parts = {
            "read": lambda index: images.path(index).read_bytes(),
            "decode": lambda index: decode_image("", files[index]),
            "draw": lambda index: (
                draw_crops(rng, photos[index].shape[:2], spec),
                [draw_photometric(rng, one) for one in spec.photometric],
            ),
            "cut views": lambda index: torch.stack(
                [cut_image(photos[index], crop, size=spec.size) for crop in crops[index]]
            ),
        }
        if self.method == "r2o":
            parts["cut the whole image"] = lambda index: cut_image(photos[index], WHOLE, size=spec.size)
            parts["superpixels"] = lambda index: label_tensor(read_label_map(self._map(_SLIC, index)))
        elif self.kind:
            parts["label map"] = self._cut_labels
        return parts

    def _cut_labels(self, index: int) -> Tensor:
        labels = read_label_map(self._map(self.kind, index))
        return torch.stack([cut_labels(labels, crop, size=self.dataset.spec.size) for crop in self._crops[index]])

    def published(self, index: int) -> dict[str, Tensor]:
        """The same item, its colours changed and normalised too, as the published pipelines make it."""
        item, size = self.items[index], self.dataset.spec.size
        image = published.open_image(self.dataset.images.path(index))
        parts = {"images": published.cut_views(image, self._crops[index], item["photometric"].numpy(), size=size)}
        if self.method == "r2o":
            parts["spanning"], parts["superpixels"] = published.whole_with_superpixels(image, size=size)
        elif self.kind:
            parts["labels"] = published.cut_masks(self._map(self.kind, index), self._crops[index], size=size)
        elif self.method == "orl":
            parts["patches"] = self._published_patches(image, index)
        return parts

    def _published_patches(self, image: Image.Image, index: int) -> Tensor:
        """A box, its jitter, and the box with its match in the neighbour; none mirrored."""
        found, rng = self.dataset.correspondence, np.random.default_rng(0)
        neighbour = int(found.neighbours[index, 0])
        other = published.open_image(self.dataset.images.path(neighbour))
        (box,), (match,) = found.boxes[index].tolist(), found.boxes[neighbour].tolist()
        jittered = jitter_box(rng, box, width=image.width, height=image.height, spec=self.dataset.jitter)
        cuts = [(image, box), (image, jittered), (image, box), (other, match)]
        crops = [box_crop(one, np.empty((picture.height, picture.width, 0)), flip=False) for picture, one in cuts]
        rows = self.items[index]["patch_photometric"].numpy()
        return torch.cat(
            [
                published.cut_views(picture, [crop], row[None], size=_PATCH)
                for (picture, _), crop, row in zip(cuts, crops, rows)
            ]
        )


def make_pipeline(method: str, images: ImageList, *, dct_scaling: bool = False) -> Pipeline:
    """A method's dataset on a folder of `make_folder`, as its main makes it from the published config."""
    mask_dir = images.root.parents[1] / "masks"
    photometric = PHOTOMETRIC["mocov2" if method == "resim" else "byol"]
    spec = ViewSpec(photometric=photometric, shared_flip=method == "resim", dct_scaling=dct_scaling)
    common = {"spec": spec, "seed": 0}
    kind = {"detconb": _FH, "cyborgs": _REGIONS}.get(method)
    masks = {"num_uniforms": _UNIFORMS, **common}
    makers: dict[str, Callable[[], TwoViews]] = {
        "r2o": lambda: R2OViews(images, mask_dir=mask_dir, **common),
        "detconb": lambda: MaskedViews(images, mask_dir=mask_dir, mask_type=_FH, **masks),
        "resim": lambda: TwoViews(images, **common),
        "orl": lambda: BoxViews(images, _correspondence(images), patch_size=_PATCH, jitter=Jitter(), **common),
        "cyborgs": lambda: BootstrappedViews(
            images, generations=Generations(MaskFolder(mask_dir, _REGIONS), mask_dir, None), **masks
        ),
    }
    return Pipeline(method, makers[method](), mask_dir, kind)


def _correspondence(images: ImageList) -> Correspondence:
    """One box an image, a third of its sides, which the next image's box matches."""
    boxes = []
    for index in range(len(images)):
        height, width, _ = read_image(images.path(index)).shape
        boxes.append((width // 3, height // 3, width // 3, height // 3))
    neighbours = np.roll(np.arange(len(images), dtype=np.int32), -1)[:, None]
    pairs = [[(*boxes[index], *boxes[neighbour])] for index, (neighbour,) in enumerate(neighbours)]
    rows = {"dtype": np.uint16}
    return Correspondence(
        Ragged.from_rows([[box] for box in boxes], width=4, **rows),
        neighbours,
        Ragged.from_rows(pairs, width=8, **rows),
    )
