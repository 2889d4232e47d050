"""Compute the SLIC superpixels of a split's images once, as label maps.

    python -m tools.make_superpixels --image_dir DIR [--split train] [--segments 100] [--size 224]

All cores; again after a kill, it goes on; under torchrun, or with --shard i/n, each process does its part.
"""

import argparse
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import skimage

from data.images import UnreadableImage, read_image
from data.label_maps import (
    LabelMapError,
    is_complete,
    label_map_path,
    missing_label_maps,
    read_label_map,
    write_label_map,
    write_meta,
)
from data.listing import ImageList, find_images
from data.superpixels import slic_labels, superpixel_type
from tools.jobs import Summary, add_job_arguments, run_job
from utils.cli import shows_errors
from utils.distributed import barrier, on_main, rank, world_size
from utils.errors import DataError, UserError

_log = logging.getLogger(__name__)


def make_superpixels(
    images: ImageList,
    mask_dir: str | Path,
    *,
    size: int,
    segments: int,
    workers: int | None = None,
    shard: tuple[int, int] = (0, 1),
    verify: bool = False,
) -> Summary:
    """Make the maps that are missing of a shard; returns at once where the note beside them says that none is.

    Args:
        images: the listing; every process of a shard needs the same.
        mask_dir: maps go to MASK_DIR/slic{segments}_{size}/SPLIT.
        size: side of the maps in pixels.
        segments: superpixels that SLIC is asked for.
        workers: processes; None for this process' share of the cores.
        shard: (i, n): this process does every n-th missing map from the i-th on. The process that ends last notes that
            the listing is complete.
        verify: read the maps that are there, and make damaged ones again.
    Returns:
        What was made; unreadable images are its failures.
    """
    mask_type = superpixel_type(segments=segments, size=size)
    folder = Path(mask_dir, mask_type, images.split)
    if is_complete(folder, images) and not verify:
        return Summary(skipped=len(images))
    part, parts = shard
    mine = range(part, len(images), parts)
    missing = set(missing_label_maps(folder, images))
    todo = list(mine) if verify else [index for index in mine if index in missing]
    make = _Maker(images, Path(mask_dir), mask_type, size, segments)
    desc = "superpixels" if parts == 1 else f"superpixels, shard {part}/{parts},"
    summary = run_job(make, todo, workers=workers, skipped=len(mine) - len(todo), desc=desc)
    if all(_is_unreadable(images, index) for index in missing_label_maps(folder, images)):
        versions = {module.__name__: module.__version__ for module in (skimage, np, PIL)}
        parameters = {"size": size, "segments": segments}
        write_meta(folder, images, tool="make_superpixels", parameters=parameters, versions=versions)
    return summary


def ensure_superpixels(images: ImageList, mask_dir: str | Path, *, size: int, segments: int) -> None:
    """Make what a run lacks, all processes together, and wait until it is there.

    Disks may be shared by all nodes or each node's own: what is missing after every process did its share of the
    whole is made once more by the processes of a node.
    """
    on_main(lambda: _make_folder(Path(mask_dir)))
    local = (int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    for shard in ((rank(), world_size()), local):
        make_superpixels(images, mask_dir, size=size, segments=segments, shard=shard)
        barrier()


def _make_folder(mask_dir: Path) -> None:
    try:
        mask_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{mask_dir}: {error.strerror}: set data.mask_dir to a folder that can be written to"
        ) from error


@dataclass(frozen=True)
class _Maker:
    """Makes one image's map unless a sound one is there; what the workers get."""

    images: ImageList
    mask_dir: Path
    mask_type: str
    size: int
    segments: int

    def __call__(self, index: int) -> bool:
        path = label_map_path(self.mask_dir, self.mask_type, self.images.split, self.images.name(index))
        if self._is_sound(path):
            return False
        image = read_image(self.images.path(index))
        write_label_map(path, slic_labels(image, size=self.size, segments=self.segments))
        return True

    def _is_sound(self, path: Path) -> bool:
        if not path.exists():
            return False
        try:
            labels = read_label_map(path)
        except LabelMapError as error:
            _log.warning("%s: made again", error)
            return False
        return labels.shape == (self.size, self.size) and len(np.unique(labels)) == int(labels.max()) + 1


def _is_unreadable(images: ImageList, index: int) -> bool:
    try:
        read_image(images.path(index))
    except UnreadableImage:
        return True
    return False


@shows_errors
def main(argv: list[str] | None = None) -> int:
    """The command line; exit code 3 where an image has no map at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image_dir", required=True, help="as data.image_dir in a config")
    parser.add_argument("--split", default="train")
    parser.add_argument("--subset", help="as data.subset in a config")
    parser.add_argument("--mask_dir", help="by default IMAGE_DIR/masks")
    parser.add_argument("--segments", type=int, default=100, help="superpixels that SLIC is asked for")
    parser.add_argument("--size", type=int, default=224, help="side of the maps in pixels, as data.superpixel_size")
    parser.add_argument("--verify", action="store_true", help="read the maps that are there, make damaged ones again")
    add_job_arguments(parser)
    arguments = parser.parse_args(argv)
    images = find_images(arguments.image_dir, split=arguments.split, subset=arguments.subset)
    summary = make_superpixels(
        images,
        arguments.mask_dir or Path(arguments.image_dir) / "masks",
        size=arguments.size,
        segments=arguments.segments,
        workers=arguments.workers,
        shard=arguments.shard,
        verify=arguments.verify,
    )
    print(f"superpixels of {len(images)} images: {summary}")
    return DataError.exit_code if summary.failures else 0


if __name__ == "__main__":
    sys.exit(main())
