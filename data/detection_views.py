"""What a detector's batch is made of: an image resized, cut and mirrored, its boxes and masks with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from data.images import read_image
from data.object_sets import ObjectSet
from data.photos import read_or_replace
from utils.errors import DataError
from utils.seeding import numpy_generator

_PLACEMENT = 2  # the stream of (seed, epoch, index) that places an image
# What surrounds smaller images of a batch is nothing once it is normalised: ImageNet's mean colour.
_SURROUNDINGS = (124, 116, 104)
# What surrounds an image that is smaller than its canvas, as detectron2 has it.
_CANVAS_GREY = 128


class Placement(NamedTuple):
    """How an image becomes a view: resize it to `size`, cut out `height` x `width` at (`top`, `left`), mirror that if `flip`,
    and lay it into the top left corner of a grey canvas of `canvas` if there is one."""

    size: tuple[int, int]  # (h, w) in pixels
    top: int
    left: int
    height: int
    width: int
    flip: bool
    canvas: tuple[int, int] | None


class Sizing(Protocol):
    """How large views are."""

    def place(self, rng: np.random.Generator, height: int, width: int, *, flip: bool) -> Placement: ...


@dataclass(frozen=True)
class ShortSide:
    """The shorter side becomes one of `sides`, unless the longer would become more than `longest`, which then it is.

    Source: detectron2, ResizeShortestEdge.
    """

    sides: tuple[int, ...]
    longest: int

    def place(self, rng: np.random.Generator, height: int, width: int, *, flip: bool) -> Placement:
        side = self.sides[rng.integers(len(self.sides))]
        scale = min(side / min(height, width), self.longest / max(height, width))
        h, w = (max(int(length * scale + 0.5), 1) for length in (height, width))
        return Placement((h, w), 0, 0, h, w, flip, None)


@dataclass(frozen=True)
class LongSide:
    """The longer side becomes `side` times a factor between the two of `scale`; with `canvas`, a square of `side` is cut out
    at random, and filled up with grey where the image is smaller.

    Source: DetCon, appendix; the released R2O, evaluation/coco/train.py.
    """

    side: int
    scale: tuple[float, float] = (1.0, 1.0)
    canvas: bool = False

    def place(self, rng: np.random.Generator, height: int, width: int, *, flip: bool) -> Placement:
        longer = int(rng.uniform(*self.scale) * self.side)
        shorter = max(int(longer * min(height, width) / max(height, width)), 1)
        h, w = (longer, shorter) if height >= width else (shorter, longer)
        if not self.canvas:
            return Placement((h, w), 0, 0, h, w, flip, None)
        cut_h, cut_w = min(h, self.side), min(w, self.side)
        top, left = (int(rng.integers(whole - part + 1)) for whole, part in ((h, cut_h), (w, cut_w)))
        return Placement((h, w), top, left, cut_h, cut_w, flip, (self.side, self.side))


def place_image(image: np.ndarray, placement: Placement) -> Tensor:
    """(H, W, 3) uint8 -> (3, h, w) uint8: bilinear, antialiased."""
    part = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    if part.shape[-2:] != placement.size:
        part = F.interpolate(part, placement.size, mode="bilinear", antialias=True)
    return _cut(part[0], placement, fill=_CANVAS_GREY).contiguous()


def place_masks(masks: np.ndarray, placement: Placement) -> Tensor:
    """(n, H, W) uint8 -> (n, h, w) uint8, each pixel taking the value at its centre."""
    _, height, width = masks.shape
    rows, columns = _nearest(height, placement.size[0]), _nearest(width, placement.size[1])
    rows = rows[placement.top : placement.top + placement.height]
    columns = columns[placement.left : placement.left + placement.width]
    whole = placement._replace(top=0, left=0)
    return _cut(torch.from_numpy(masks[:, rows[:, None], columns]), whole, fill=0).contiguous()


def place_boxes(boxes: np.ndarray, size: tuple[int, int], placement: Placement) -> np.ndarray:
    """(n, 4) pixels of an image of `size` -> (n, 4) pixels of the view, cut to it; what was cut away is empty."""
    (height, width), (h, w) = size, placement.size
    placed = boxes * (np.array([w, h, w, h]) / np.array([width, height, width, height]))
    placed -= np.array([placement.left, placement.top, placement.left, placement.top])
    if placement.flip:
        placed[:, [0, 2]] = placement.width - placed[:, [2, 0]]
    limits = np.array([placement.width, placement.height] * 2)
    return np.clip(placed, 0, limits)


class TrainViews(Dataset):
    """Images to train a detector on.

    Args:
        objects: the images and what is in them.
        sizing: how large views are.
        flip_probability: chance that a view is mirrored.
        masks: give masks too.
        seed: of every draw; nothing else decides what (epoch, index) gives.
    """

    def __init__(self, objects: ObjectSet, *, sizing: Sizing, flip_probability: float, masks: bool, seed: int):
        self.objects, self.sizing, self.flip_probability = objects, sizing, flip_probability
        self.masks, self.seed = masks, seed

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        """The item of (epoch, index).

        Returns:
            `image` (3, h, w) uint8, `boxes` (n, 4) float32 in its pixels, `labels` (n,) int64 from 0, with masks `masks`
            (n, h, w) uint8, and `unreadable`, a list of (name, reason). Objects that the view cuts away are left out.
        Raises:
            DataError: an image is not as large as its annotation says, or see `read_or_replace`.
        """
        epoch, index = key
        photo = read_or_replace(self.objects, seed=self.seed, epoch=epoch, index=index)
        objects = self.objects.objects(photo.index)
        _check_size(self.objects, photo.index, photo.image)
        rng = numpy_generator(self.seed, epoch, index, _PLACEMENT)
        flip = bool(rng.random() < self.flip_probability)
        placement = self.sizing.place(rng, *objects.size, flip=flip)
        boxes = place_boxes(objects.boxes, objects.size, placement)
        shown = (boxes[:, 2:] > boxes[:, :2]).all(1)
        item = {"image": place_image(photo.image, placement), "unreadable": photo.unreadable}
        if self.masks:
            masks = place_masks(self.objects.masks(photo.index), placement)
            shown &= (masks > 0).flatten(1).any(1).numpy()
            item["masks"] = masks[torch.from_numpy(shown)]
        boxes, labels = torch.from_numpy(boxes[shown]).float(), torch.from_numpy(objects.labels[shown])
        return item | {"boxes": boxes, "labels": labels}


class WholeViews(Dataset):
    """Images to test a detector on, by their index."""

    def __init__(self, objects: ObjectSet, *, sizing: Sizing):
        self.objects, self.sizing = objects, sizing

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index: int) -> dict:
        """`image` (3, h, w) uint8, `index`, and `original`, the image's (height, width).

        Raises:
            UnreadableImage, DataError: as the training set's.
        """
        image = read_image(self.objects.path(index))
        _check_size(self.objects, index, image)
        height, width, _ = image.shape
        # A test draws nothing: there is one size, and one factor.
        placement = self.sizing.place(numpy_generator(0), height, width, flip=False)
        return {"image": place_image(image, placement), "index": index, "original": (height, width)}


@dataclass(frozen=True)
class Collate:
    """Items of different sizes to a batch.

    Attributes:
        divisor: sides of the batch's images are multiples of it.
    """

    divisor: int

    def __call__(self, items: Sequence[dict]) -> dict:
        """Batch B items with N objects in all.

        Returns:
            `images` (B, 3, H, W) uint8, smaller ones at the top left; `sizes`, B pairs (h, w); of a training set `boxes` (N, 4),
            `labels` (N,), `counts`, how many of them are each image's, with masks `masks` (N, H, W), and `unreadable`; of a
            test set `indices` and `originals`.
        """
        sizes = [tuple(item["image"].shape[-2:]) for item in items]
        H, W = (-(-max(side) // self.divisor) * self.divisor for side in zip(*sizes))
        images = torch.tensor(_SURROUNDINGS, dtype=torch.uint8).view(1, 3, 1, 1).repeat(len(items), 1, H, W)
        for image, item, (h, w) in zip(images, items, sizes):
            image[:, :h, :w] = item["image"]
        batch = {"images": images, "sizes": sizes}
        if "index" in items[0]:
            return batch | {
                key: [item[one] for item in items] for key, one in (("indices", "index"), ("originals", "original"))
            }
        batch |= {key: torch.cat([item[key] for item in items]) for key in ("boxes", "labels")}
        if "masks" in items[0]:
            masks = [F.pad(item["masks"], (0, W - w, 0, H - h)) for item, (h, w) in zip(items, sizes)]
            batch["masks"] = torch.cat(masks)
        unreadable = [entry for item in items for entry in item["unreadable"]]
        return batch | {"counts": [len(item["labels"]) for item in items], "unreadable": unreadable}


def _check_size(objects: ObjectSet, index: int, image: np.ndarray) -> None:
    height, width = objects.sizes[index].tolist()
    if image.shape[:2] != (height, width):
        raise DataError(
            f"{objects.path(index)}: {image.shape[1]} x {image.shape[0]} pixels, but its annotation says {width} x {height}: the "
            "boxes belong to another image; copy both again"
        )


def _cut(pictures: Tensor, placement: Placement, *, fill: int) -> Tensor:
    _, top, left, height, width, flip, canvas = placement
    part = pictures[..., top : top + height, left : left + width]
    part = part.flip(-1) if flip else part
    if canvas is None:
        return part
    return F.pad(part, (0, canvas[1] - width, 0, canvas[0] - height), value=fill)


def _nearest(length: int, size: int) -> np.ndarray:
    """For `size` equal steps over `length` pixels the pixel under each step's centre."""
    return np.minimum(((np.arange(size) + 0.5) * length / size).astype(np.int64), length - 1)
