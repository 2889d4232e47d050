"""Which images there are: one sorted list, the same for every process."""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.image_list import IMAGE_SUFFIXES, ImageList
from data.shard_index import list_tars
from data.shards import holds_shards, open_shards
from utils.errors import DataError

_SUFFIX_BYTES = tuple(suffix.encode() for suffix in IMAGE_SUFFIXES)
SUBSETS = Path(__file__).parent / "subsets"
# Never images to train on where the image folder itself is listed.
_OTHER_FOLDERS = ("masks", "annotations", "proposals")
_SPLITS = ("train", "val", "test", "unlabeled", "train2017", "val2017", "test2017", "unlabeled2017")
# What a split is called in a shard's name.
_SPLIT_WORDS = {"validation": "val"} | {name: name.removesuffix("2017") for name in _SPLITS}

_log = logging.getLogger(__name__)


def find_images(image_dir: str | Path, *, split: str = "train", subset: str | None = None) -> ImageList:
    """List a split's images, at any depth, or in WebDataset shards.

    Args:
        image_dir: holds `images/SPLIT`, `images/SPLIT2017`, `SPLIT` or `SPLIT2017`, or is itself the folder of images; a
            folder of .tar files and nothing else to list is one of shards.
        split: train, val, ...
        subset: None or "" for all; a text file of class names or file names, one a line; or a bare name, looked up in
            data/subsets.
    Returns:
        The images, sorted by relative path.
    Raises:
        DataError: no such folder, split, subset, or no image in it; says what was looked for.
    """
    root = _split_folder(Path(image_dir), split)
    is_itself = root == Path(image_dir)
    skipped = _OTHER_FOLDERS if is_itself else ()
    if holds_shards(root, skipped):
        if is_itself:
            _check_splits(root, split)
        images = open_shards(root, split)
    else:
        images = _list_folder(root, split, skipped)
    return _choose(images, _subset_file(subset)) if subset else images


def _check_splits(root: Path, split: str) -> None:
    """Shards that another split is named by must not be trained on as if they were this one's."""
    words = {word for name in list_tars(root) for word in re.split(r"[^a-z0-9]+", name.lower())}
    found = {_SPLIT_WORDS[word] for word in words & _SPLIT_WORDS.keys()}
    if found - {_SPLIT_WORDS.get(split, split)}:
        raise DataError(
            f"{root}: holds shards of {' and '.join(sorted(found))}, by their names, and data.split is {split}: move those "
            f"of each split to a folder of its own, {root / split}; or set data.split, if all are of one"
        )


def _list_folder(root: Path, split: str, skipped: tuple[str, ...]) -> ImageList:
    paths = sorted(walk_images(root, skipped))
    if not paths:
        hint = "; its tars are shards only where neither folders nor images lie beside them" if list_tars(root) else ""
        raise DataError(f"{root}: no image there, at any depth ({', '.join(IMAGE_SUFFIXES)} count as images){hint}")
    return ImageList(root, split, np.array(paths))


def _split_folder(image_dir: Path, split: str) -> Path:
    if not image_dir.is_dir():
        raise DataError(f"{image_dir}: no such folder; set data.image_dir")
    parents = (image_dir / "images", image_dir)
    for parent in parents:
        for name in (split, f"{split}2017"):
            if (parent / name).is_dir():
                return parent / name
    # A folder of other splits must not be trained on as if it were this one.
    others = sorted({name for parent in parents for name in _SPLITS if (parent / name).is_dir()})
    if others:
        raise DataError(f"{image_dir}: no split '{split}' there, but {', '.join(others)}; set data.split")
    return image_dir


def walk_images(root: str | Path, skipped: tuple[str, ...] = ()) -> Iterator[bytes]:
    """Relative paths of the image files below `root`, unsorted; follows linked folders, each folder once.

    Args:
        root: an existing folder.
        skipped: names of folders directly below it that are left out.
    """
    pending, seen = [b""], set()
    base = os.fsencode(root)
    while pending:
        folder = pending.pop()
        status = os.stat(os.path.join(base, folder))
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(os.path.join(base, folder)) as entries:
            for entry in entries:
                # Hidden files are leftovers of other programs, such as macOS' "._photo.jpg".
                if entry.name.startswith(b"."):
                    continue
                path = folder + b"/" + entry.name if folder else entry.name
                if entry.name.lower().endswith(_SUFFIX_BYTES):
                    yield path
                elif entry.is_dir() and not (folder == b"" and os.fsdecode(entry.name) in skipped):
                    pending.append(path)


def _subset_file(subset: str) -> Path:
    if "/" in subset or os.sep in subset or subset.endswith(".txt"):
        path = Path(subset)
        hint = "make one with `python -m tools.make_subset`"
    else:
        path = SUBSETS / f"{subset}.txt"
        hint = (
            "put the list there (R2O's and SimCLR's releases publish imagenet100 and imagenet1p), or make one of your "
            f"own with `python -m tools.make_subset --out {path}`"
        )
    if not path.is_file():
        raise DataError(f"data.subset: no file {path}; {hint}")
    return path


def _choose(images: ImageList, subset_file: Path) -> ImageList:
    """The images that a subset names by class, by relative path or by file name."""
    lines = {line.strip() for line in subset_file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()}
    wanted = {os.fsencode(line) for line in lines if line and not line.startswith("#")}
    found, kept = set(), []
    for index, path in enumerate(images.paths.tolist()):
        keys = {path, path.rpartition(b"/")[2]}
        if b"/" in path:
            keys.add(path.partition(b"/")[0])
        hits = wanted & keys
        found |= hits
        if hits:
            kept.append(index)
    if not kept:
        raise DataError(f"{subset_file}: none of its {len(wanted)} classes or files is in {images.root}")
    if found != wanted:
        missing = sorted(os.fsdecode(entry) for entry in wanted - found)
        _log.warning("%s: %d entries are not in %s, such as %s", subset_file, len(missing), images.root, missing[0])
    return images.select(kept)
