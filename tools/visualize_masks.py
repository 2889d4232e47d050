"""The label maps of a run, generation by generation: how its regions change as it learns.

    python -m tools.visualize_masks RUN [--count 8] [--output RUN/generations.png] [--annotations FILE | --segments DIR]

One row an image: photo, first masks, each generation in RUN/masks (of R2O: superpixels, and the epochs that `tools.region_maps`
made maps of), and what people drew where it is given, with the number of labels. A region has the colour of the region before it
that it fits best.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.optimize import linear_sum_assignment

from data.images import UnreadableImage, read_image
from data.label_maps import LabelMapError, dense_labels, label_map_file, read_label_map
from data.listing import ImageList
from data.masked_views import MaskFolder
from evaluation.truths import Truth, add_truth_arguments, chosen_truth
from tools.pictures import TILE, paint_regions, resize, spread, stack
from tools.run_masks import find_run_masks
from utils.cli import positive, shows_errors
from utils.distributed import is_main
from utils.errors import DataError
from utils.log import RunLog

_CAPTION = 16  # height of the line above a tile, in pixels
_FONT_SIZE = 11
_GREY = 128  # of a tile that has nothing to show
# Maps are painted this much larger than their tiles: the lines between clusters of a few pixels would else cover them.
_FINER = 3
_COLUMNS_OF_A_RUN = 12  # at most, in the sheets that it draws of itself


class GenerationPictures:
    """Draws the label maps of some images, generation by generation.

    Args:
        images: the listing.
        count: images drawn, evenly spaced over the listing; 0 draws none.
    """

    name = "generations"

    def __init__(self, images: ImageList, *, count: int):
        self._images = images
        self._indices = spread(min(count, len(images)), len(images)) if is_main() else []
        self._drawn: list[MaskFolder] = []

    def draw(self, step: int, folders: Sequence[MaskFolder], log: RunLog) -> None:
        """Add a sheet to the log where there is another generation than in the last one; only rank 0's call does anything.

        Args:
            step: optimiser steps done.
            folders: where the maps of the first and of each later generation lie.
        """
        if len(self._indices) == 0 or list(folders) == self._drawn or log.has_picture(step, self.name):
            return
        self._drawn = list(folders)
        shown = spread_over(folders, _COLUMNS_OF_A_RUN)
        log.pictures(step, self.name, generation_sheet(self._images, shown, self._indices))


def generation_sheet(
    images: ImageList, folders: Sequence[MaskFolder], indices: Sequence[int], *, truth: Truth | None = None
) -> np.ndarray:
    """One row an image: the photo, then its label map of each folder, in colours that follow a region from one to the next.

    Args:
        images: the listing.
        folders: where the maps lie, one column each, the oldest first.
        indices: the rows.
        truth: what people drew, for a last column; of several people the first one's, its background grey.
    Returns:
        (H, W, 3) uint8. Grey tiles where an image or a map cannot be read.
    """
    return stack([_row(images, folders, int(index), truth) for index in indices], axis=0)


def _row(images: ImageList, folders: Sequence[MaskFolder], index: int, truth: Truth | None) -> np.ndarray:
    name, side = images.name(index), _FINER * TILE
    try:
        photo = read_image(images.path(index))
        tiles = [_captioned(resize(photo), Path(name).name)]
    except UnreadableImage:
        photo = np.full((side, side, 3), _GREY, dtype=np.uint8)
        tiles = [_captioned(_grey(), f"{Path(name).name}: unreadable")]
    maps = [(mask_type, _read_map(images, index, mask_dir, mask_type)) for mask_dir, mask_type in folders]
    if truth is not None:
        maps.append(("truth", _read_truth(truth, name)))
    photo, before = resize(photo, side), None
    for title, labels in maps:
        if labels is None:
            tiles.append(_captioned(_grey(), f"{title}: none"))
            continue
        count = len(np.unique(labels[labels >= 0]))
        labels = resize(labels, side)
        before = labels if before is None else follow_labels(before, labels)
        painted = Image.fromarray(paint_regions(photo, before)).reduce(_FINER)
        tiles.append(_captioned(np.asarray(painted), f"{title}: {count}"))
    return stack(tiles, axis=1)


def follow_labels(before: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Renumber regions after those of an earlier map, in pairs that together share the most pixels; others get new numbers.

    Args:
        before: (H, W) integers >= 0.
        labels: (H, W) integers; negative ones are no region and become -1.
    Returns:
        (H, W) int64.
    """
    region = labels >= 0
    places, count = dense_labels(labels[region])
    shared = np.zeros((count, int(before.max()) + 1), dtype=np.int64)
    np.add.at(shared, (places, before[region]), 1)
    rows, columns = linear_sum_assignment(shared, maximize=True)
    # A pair without a common pixel is no pair.
    overlaps = shared[rows, columns] > 0
    numbers = np.full(count, -1, dtype=np.int64)
    numbers[rows[overlaps]] = columns[overlaps]
    # Not those of regions that are gone either, or they would seem to have moved.
    new = np.setdiff1d(np.arange(count + shared.shape[1]), before)
    numbers[numbers < 0] = new[: count - overlaps.sum()]
    followed = np.full(labels.shape, -1, dtype=np.int64)
    followed[region] = numbers[places]
    return followed


def _read_map(images: ImageList, index: int, mask_dir: str | Path, mask_type: str) -> np.ndarray | None:
    try:
        file = label_map_file(images, index, mask_dir=mask_dir, mask_type=mask_type)
        return read_label_map(file).astype(np.int64)
    except LabelMapError:
        return None


def _read_truth(truth: Truth, name: str) -> np.ndarray | None:
    """The first person's objects from 0, the background -1."""
    try:
        return truth(name)[0].astype(np.int64) - truth.background
    except DataError:
        return None


def _captioned(tile: np.ndarray, caption: str) -> np.ndarray:
    """A tile below a line of text, as much of it as fits."""
    line = Image.new("RGB", (TILE, _CAPTION), "white")
    # What is no text in a file's name, the font cannot draw.
    text = caption.encode("utf-8", "replace").decode("utf-8")
    font = ImageFont.load_default(_FONT_SIZE)
    ImageDraw.Draw(line).text((2, _CAPTION // 2), text, fill="black", font=font, anchor="lm")
    return np.concatenate([np.asarray(line), tile])


def _grey() -> np.ndarray:
    return np.full((TILE, TILE, 3), _GREY, dtype=np.uint8)


def run_sheet(
    run: Path, *, count: int, columns: int | None = None, truth: Truth | None = None, split: str | None = None
) -> np.ndarray:
    """The sheet of a run's folder.

    Args:
        count: images, evenly spaced over the listing.
        columns: generations shown, evenly spaced from the first to the last; None for all.
        truth: as in `generation_sheet`.
        split: by default what the run was trained on.
    Raises:
        UserError, DataError: as `find_run_masks`.
    """
    _, images, folders = find_run_masks(run, split=split)
    indices = spread(min(count, len(images)), len(images))
    return generation_sheet(images, spread_over(folders, columns or len(folders)), indices, truth=truth)


def spread_over(folders: Sequence[MaskFolder], columns: int) -> list[MaskFolder]:
    """At most so many, evenly spaced from the first to the last."""
    return [folders[place] for place in spread(min(columns, len(folders)), len(folders))]


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--count", type=positive, default=8, help="images, evenly spaced over the listing")
    parser.add_argument("--columns", type=positive, help="generations shown; by default all")
    parser.add_argument("--output", type=Path, help="the PNG to write; by default RUN/generations.png")
    parser.add_argument("--split", help="by default what the run was trained on")
    add_truth_arguments(parser)
    arguments = parser.parse_args(argv)
    truth = chosen_truth(arguments)
    options = {"count": arguments.count, "columns": arguments.columns, "split": arguments.split}
    sheet = run_sheet(arguments.run, truth=truth, **options)
    output = arguments.output or arguments.run / "generations.png"
    Image.fromarray(sheet).save(output)
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
