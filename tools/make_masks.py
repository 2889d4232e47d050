"""Make the label maps of a split's images once: segments, superpixels, grids, or copies of human ones.

    python -m tools.make_masks --dataset_dir DIR [--mask_type fh] [--split train val]

All cores; again after a kill, it goes on; under torchrun, or with --shard i/n, each process does its part.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import PIL
import skimage

from data.derived import is_complete, lacking_files, read_meta, write_meta
from data.felzenszwalb import compiler_versions, prepare
from data.label_maps import missing_label_maps
from data.listing import ImageList
from data.mask_makers import FH, Maker, maker_of
from tools.jobs import Summary, find_listings, make_together, run_job, writing
from tools.mask_options import chosen_makers, chosen_types, parse_arguments
from tools.mask_tasks import CheckMap, MakeMaps
from utils.cli import shows_errors
from utils.errors import DataError, UserError
from utils.files import remove_leftovers

_MODULES = (skimage, cv2, np, PIL)


def make_masks(
    images: ImageList,
    mask_dir: str | Path,
    makers: Sequence[Maker],
    *,
    workers: int | None = None,
    shard: tuple[int, int] = (0, 1),
    repair: bool = False,
) -> Summary:
    """Make the maps that are missing of a shard, several types in one reading of the images.

    Args:
        images: the listing; every process of a shard needs the same.
        mask_dir: maps go to MASK_DIR/TYPE/SPLIT, one type a maker.
        makers: what makes the maps; no two of one type.
        workers: processes; None for this process' share of the cores.
        shard: (i, n): this process does every n-th image from the i-th on. The process that ends last notes that the
            listing is complete.
        repair: look through the maps that are there, and make again those that are damaged or of another size.
    Returns:
        How many images were done and were there already; images that cannot be read or have no map are its failures.
    Raises:
        UserError: maps there were made otherwise, or the folder cannot be written to.
    """
    folders = [Path(mask_dir, maker.type, images.split) for maker in makers]
    if len(set(folders)) < len(folders):
        raise UserError(f"two of the same type: {', '.join(maker.type for maker in makers)}")
    for maker, folder in zip(makers, folders):
        _refuse_others(folder, maker)
    part, parts = shard
    mine = range(part, len(images), parts)
    todo = set()
    for maker, folder in zip(makers, folders):
        missing = set(mine) if repair else set(missing_label_maps(folder, images)).intersection(mine)
        # Before the first map, so that a job that was stopped is told from another one.
        if missing and not maker.parameters.items() <= _noted(folder).items():
            _note(folder, None, maker, {**_noted(folder), **maker.parameters})
        todo |= missing
    desc = ", ".join(maker.type for maker in makers) + ("" if parts == 1 else f" (shard {part}/{parts})")
    if todo and any(map(_is_compiled, makers)):
        prepare()
    task = MakeMaps(images, Path(mask_dir), tuple(makers), repair)
    summary = run_job(task, sorted(todo), workers=workers, skipped=len(mine) - len(todo), desc=desc)
    for maker, folder in zip(makers, folders):
        if not is_complete(folder, images) and next(lacking_files(folder, images, suffix=".png"), None) is None:
            _note(folder, images, maker, _noted(folder) or maker.parameters)
            remove_leftovers(folder)
    return summary


def verify_masks(
    images: ImageList,
    mask_dir: str | Path,
    mask_type: str,
    *,
    workers: int | None = None,
    shard: tuple[int, int] = (0, 1),
) -> Summary:
    """Look through the maps of a shard, and make none.

    Args:
        mask_type: the name of the maps' folder.
        images, mask_dir, workers, shard: as in `make_masks`.
    Returns:
        How many are sound, as `skipped`; its failures are maps that are missing, damaged or of another size, and images
        that cannot be read.
    """
    mine = range(shard[0], len(images), shard[1])
    return run_job(
        CheckMap(images, Path(mask_dir), mask_type), mine, workers=workers, desc=f"{mask_type}, looked through"
    )


def ensure_masks(images: ImageList, mask_dir: str | Path, makers: Sequence[Maker]) -> None:
    """Make what a run lacks, all processes together, and wait until it is there.

    Raises:
        UserError: as `make_masks`.
    """
    # What lies in the images' shards is not made again.
    makers = [maker for maker in makers if not images.held_maps(mask_dir, maker.type)]
    for maker in makers:
        _refuse_others(Path(mask_dir, maker.type, images.split), maker)

    def make(shard: tuple[int, int]) -> Summary:
        lacking = [maker for maker in makers if not is_complete(Path(mask_dir, maker.type, images.split), images)]
        return make_masks(images, mask_dir, lacking, shard=shard) if lacking else Summary()

    if makers:
        make_together(Path(mask_dir), make, lacks="label map")


def _refuse_others(folder: Path, maker: Maker) -> None:
    """Refuse maps that were made otherwise; what imported ones lack may be computed, as their type's name says."""
    noted = _noted(folder)
    imported = {key: value for key, value in noted.items() if key == "imported"}
    computed = {key: value for key, value in noted.items() if key != "imported"}
    may_fill_up = noted == imported and _is_computed(maker)
    if noted and maker.parameters not in (imported, computed) and not may_fill_up:
        raise UserError(
            f"{folder}: its maps were made with {_words(noted)}, not with {_words(maker.parameters)}: "
            "give another --output_dir (data.mask_dir in a config), or delete the folder"
        )


def _is_computed(maker: Maker) -> bool:
    """Whether the folder's name alone tells how the maps are made."""
    try:
        return maker_of(maker.type) == maker
    except UserError:
        return False


def _is_compiled(maker: Maker) -> bool:
    """Whether numba takes part where it is installed: OpenCV's segments are a kind of FH, but OpenCV's work."""
    return type(maker) is FH


def _noted(folder: Path) -> dict:
    return read_meta(folder).get("parameters", {})


def _note(folder: Path, images: ImageList | None, maker: Maker, parameters: dict) -> None:
    versions = {module.__name__: module.__version__ for module in _MODULES}
    if _is_compiled(maker):
        versions |= compiler_versions()
    with writing(folder):
        write_meta(folder, images, tool="make_masks", parameters=parameters, versions=versions)


def _words(parameters: dict) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(parameters.items()))


def _refuse_among_images(folder: Path, images: ImageList, dataset_dir: Path) -> None:
    """Label maps among the images would be images to the next listing; only DATASET_DIR/masks is left out of it."""
    root, folder = images.root.resolve(), folder.resolve()
    left_out = dataset_dir.resolve() / "masks"
    if folder.is_relative_to(root) and not (root == dataset_dir.resolve() and folder.is_relative_to(left_out)):
        raise UserError(f"--output_dir {folder} lies among the images of {root}: give a folder beside them")


@shows_errors
def main(argv: list[str] | None = None) -> int:
    """The command line; exit code 3 where an image has no sound map at the end."""
    arguments = parse_arguments(argv, description=__doc__)
    folder = arguments.output_dir or Path(arguments.dataset_dir, "masks")
    listings = find_listings(arguments)
    for images in [] if arguments.verify else listings:
        _refuse_among_images(Path(folder), images, Path(arguments.dataset_dir))
    options = {"workers": arguments.workers, "shard": arguments.shard}
    types, failures = chosen_types(arguments), 0
    for images in listings:
        if arguments.verify:
            for one in types:
                summary = verify_masks(images, folder, one, **options)
                print(f"{one}, {images.split}: {summary.skipped} sound, {len(summary.failures)} not")
                print(*summary.failure_lines(), sep="\n", end="\n" if summary.failures else "")
                failures += len(summary.failures)
        else:
            makers = chosen_makers(arguments, images)
            summary = make_masks(images, folder, makers, repair=arguments.repair, **options)
            print(f"{', '.join(types)}, {images.split}: {summary}")
            failures += len(summary.failures)
    return DataError.exit_code if failures else 0


if __name__ == "__main__":
    sys.exit(main())
