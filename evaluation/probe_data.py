"""What the probes are fitted to: images of one size with their ground truth, read from a COCO-style folder."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evaluation.truths import open_coco
from utils.errors import DataError


class ProbeData(NamedTuple):
    """N images with what they show.

    images: (N, 3, S, S) uint8 RGB.
    instances: (N, S', S') int64, the object each pixel shows: -1 for none, else its place in `categories`.
    categories: (N, M) int64 class of each object from 0, -1 where an image has fewer than M.
    num_classes: C, classes without the background.
    """

    images: Tensor
    instances: Tensor
    categories: Tensor
    num_classes: int

    @property
    def segmentation(self) -> Tensor:
        """(N, S', S') int64: 0 for the background, else 1 + the class."""
        known = self.instances.clamp(min=0).flatten(1)
        classes = self.categories.gather(1, known).view_as(self.instances)
        return torch.where(self.instances < 0, 0, classes + 1)


def read_probe_data(folder: str | Path, split: str, *, size: int, limit: int | None = None) -> ProbeData:
    """Read a split of the demo data, or of any folder in its layout.

    Args:
        folder: holds images/SPLIT and annotations/instances_SPLIT.json.
        split: train, val.
        size: side to which the images are resized (bicubic, antialiased); the ground truth keeps its own resolution.
        limit: read the first `limit` images.
    Raises:
        DataError: no such annotations, or images that are not all squares of one size.
    """
    annotations = Path(folder, "annotations", f"instances_{split}.json")
    if not annotations.is_file():
        command = f"python -m tools.make_demo_data --output_dir {folder}"
        raise DataError(f"no file {annotations}; make the demo data with `{command}`")
    coco = open_coco(annotations)
    entries = coco.loadImgs(sorted(coco.getImgIds())[:limit])
    sides = {(entry["height"], entry["width"]) for entry in entries}
    if len(sides) != 1 or len(set(*sides)) != 1:
        raise DataError(f"{annotations}: the probes need square images of one size, not of {sorted(sides)[:5]}")
    class_of = {category: place for place, category in enumerate(sorted(coco.getCatIds()))}
    objects = [coco.imgToAnns[entry["id"]] for entry in entries]
    categories = torch.full((len(entries), max(1, *map(len, objects))), -1)
    instances = torch.full((len(entries), *sides.pop()), -1)
    for row, things in enumerate(objects):
        for place, thing in enumerate(things):
            categories[row, place] = class_of[thing["category_id"]]
            instances[row][torch.from_numpy(coco.annToMask(thing)).bool()] = place
    images = torch.stack([_read(Path(folder, "images", split, entry["file_name"]), size) for entry in entries])
    return ProbeData(images, instances, categories, len(class_of))


def _read(path: Path, size: int) -> Tensor:
    with Image.open(path) as picture:
        resized = picture.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)
