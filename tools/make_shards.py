"""Pack a split's images, with their label maps, into WebDataset shards: tars that are read in large pieces.

    python -m tools.make_shards --dataset_dir DIR --output_dir SHARDS [--split train val] [--mask_type fh slic100_224]

Then `data.image_dir=SHARDS` gives the same batches as DIR; docs/shards.md says when it pays. All cores; again after a kill, it
goes on; with --part i/n, each process does its part.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.derived import read_meta
from data.image_list import ImageList
from data.label_maps import check_label_maps, find_mask_dir, label_map_file
from data.listing import find_images
from data.shard_index import INDEX, NOTE, find_index, list_tars, make_index, write_index
from tools.jobs import Summary, parse_shard, run_job, writing
from tools.shard_writer import WriteShard, sample_keys
from utils.cli import positive, shows_errors
from utils.errors import DataError, UserError
from utils.files import read_json, remove_leftovers, write_json
from utils.seeding import numpy_generator

_SHARD_MB = 256
_WEIGHED = 256


def make_shards(
    images: ImageList,
    output_dir: str | Path,
    mask_dirs: dict[str, Path],
    *,
    images_per_shard: int | None = None,
    shard_mb: float | None = None,
    seed: int = 0,
    workers: int | None = None,
    part: tuple[int, int] = (0, 1),
) -> Summary:
    """Write the shards that are missing of a part, and, by the process that ends last, their index.

    Args:
        output_dir: they go to OUTPUT_DIR/SPLIT.
        mask_dirs: type -> MASK_DIR of the label maps to pack.
        images_per_shard: how many, or else as many as are some `shard_mb` MB.
        seed: of the order in which images are packed.
        workers: processes; None for all cores.
        part: (i, n): this process writes every n-th shard from the i-th on.
    Raises:
        UserError: other shards are there, or the folder cannot be written to; DataError where a label map is missing.
    """
    folder = Path(output_dir, images.split)
    _refuse_own(folder, images)
    for mask_type, mask_dir in mask_dirs.items():
        check_label_maps(mask_dir, mask_type, images)
    asked = {
        "listing": images.listing_hash,
        "masks": {
            one: read_meta(Path(mask_dir, one, images.split)).get("parameters") for one, mask_dir in mask_dirs.items()
        },
        "seed": seed,
        "asked": {"images_per_shard": images_per_shard, "shard_mb": shard_mb},
    }
    count = _begin(folder, asked, lambda: images_per_shard or _fitting(images, mask_dirs, shard_mb or _SHARD_MB))
    keys = np.array(sample_keys(images))
    task = WriteShard(images, mask_dirs, keys, folder, images_per_shard=count, seed=seed)
    mine = range(part[0], len(task), part[1])
    todo = [number for number in mine if not task.path(number).exists()]
    summary = run_job(task, todo, workers=workers, skipped=len(mine) - len(todo), desc=f"shards of {images.split}")
    if all(task.path(number).exists() for number in range(len(task))):
        _finish(folder, images, task)
    return summary


def _refuse_own(folder: Path, images: ImageList) -> None:
    """Shards among what they are made of would be taken for it."""
    root, goal = images.root.resolve(), folder.resolve()
    if goal.is_relative_to(root) or root.is_relative_to(goal):
        raise UserError(f"--output_dir: {folder} lies where the images lie, {images.root}: give another folder")


def _begin(folder: Path, asked: dict[str, Any], fitting: Callable[[], int]) -> int:
    """Note what is packed, or find it noted: images a shard.

    Args:
        fitting: gives their number, where this is the first shard.
    """
    note = folder / NOTE
    if note.exists():
        noted = read_json(note)
        different = sorted(key for key in asked if noted.get(key) != asked[key])
        if different:
            raise UserError(
                f"{folder}: its shards are of other images, maps or sizes ({', '.join(different)}; see {NOTE} there): give "
                "another --output_dir, or delete the folder"
            )
        return int(noted["images_per_shard"])
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if list_tars(folder):
            raise UserError(f"{folder}: holds tars that this tool did not make: give another --output_dir")
        count = fitting()
        write_json(note, {"tool": "make_shards", **asked, "images_per_shard": count})
    return count


def _fitting(images: ImageList, mask_dirs: dict[str, Path], shard_mb: float) -> int:
    """How many images, with their maps, make some MB, by the sizes of a sample."""
    chosen = numpy_generator(0).permutation(len(images))[:_WEIGHED].tolist()
    total = 0
    for index in chosen:
        files = [label_map_file(images, index, mask_dir=place, mask_type=one) for one, place in mask_dirs.items()]
        # A header for each and for the note, and what rounds them up.
        total += sum(len(file.read_bytes()) + 768 for file in [images.path(index), *files] if file.exists()) + 1024
    return max(1, round(shard_mb * 1e6 * len(chosen) / max(total, 1)))


def _finish(folder: Path, images: ImageList, task: WriteShard) -> None:
    """Look through what is there, and keep its index."""
    if (folder / INDEX).exists():
        index = find_index(folder)
    else:
        index = make_index(folder, [task.path(number).name for number in range(len(task))])
    if not np.array_equal(index.paths, images.paths):
        raise DataError(
            f"{folder}: its shards do not hold the images of {images.root}; delete the folder, and start again"
        )
    with writing(folder):
        write_index(folder, index)
    remove_leftovers(folder)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True, help="the images, as data.image_dir in a config; shards too")
    parser.add_argument("--output_dir", required=True, help="shards go to OUTPUT_DIR/SPLIT")
    parser.add_argument("--split", nargs="+", default=["train"])
    parser.add_argument("--subset", help="as data.subset in a config")
    parser.add_argument("--mask_type", nargs="+", default=[], help="label maps to pack, made by tools.make_masks")
    parser.add_argument("--mask_dir", help="where they lie, as data.mask_dir; by default DATASET_DIR/masks")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--images_per_shard", type=positive, help="how many images a shard holds")
    size.add_argument("--shard_mb", type=positive, help=f"how large a shard is, by default some {_SHARD_MB} MB")
    parser.add_argument("--seed", type=int, default=0, help="of the random order in which images are packed")
    parser.add_argument("--workers", type=positive, help="processes; by default all cores")
    parser.add_argument("--part", type=parse_shard, default="0/1", metavar="i/n", help="write the i-th of n parts")
    return parser.parse_args(argv)


@shows_errors
def main(argv: list[str] | None = None) -> int:
    """The command line; exit code 3 where a shard could not be made."""
    arguments = parse_arguments(argv)
    failures = 0
    # All are looked for before hours go into the first.
    for images in [find_images(arguments.dataset_dir, split=one, subset=arguments.subset) for one in arguments.split]:
        places = {"mask_dir": arguments.mask_dir, "image_dir": arguments.dataset_dir}
        summary = make_shards(
            images,
            arguments.output_dir,
            {one: find_mask_dir(images, one, **places) for one in sorted(set(arguments.mask_type))},
            images_per_shard=arguments.images_per_shard,
            shard_mb=arguments.shard_mb,
            seed=arguments.seed,
            workers=arguments.workers,
            part=arguments.part,
        )
        print(f"{images.split}, {len(images)} images: {summary}")
        failures += len(summary.failures)
    return DataError.exit_code if failures else 0


if __name__ == "__main__":
    sys.exit(main())
