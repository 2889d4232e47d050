"""Files that a tool makes of images, one an image: which are missing, and the note of how they were made."""

import os
from collections.abc import Iterator
from pathlib import Path

from data.images import UnreadableImage, read_image
from data.listing import ImageList
from utils.files import read_json, write_json


def missing_files(folder: str | Path, images: ImageList, *, suffix: str) -> list[int]:
    """Indices of the images without a file at FOLDER/IMAGE_PATH_WITH_SUFFIX followed by `suffix`; lists folders only."""
    paths, ending = images.paths.tolist(), os.fsencode(suffix)
    present: set[bytes] = set()
    for parent in {path.rpartition(b"/")[0] for path in paths}:
        inside = os.path.join(os.fsencode(folder), parent)
        if os.path.isdir(inside):
            present.update(parent + b"/" + name if parent else name for name in os.listdir(inside))
    return [index for index, path in enumerate(paths) if path + ending not in present]


def lacking_files(folder: str | Path, images: ImageList, *, suffix: str) -> Iterator[int]:
    """Those of `missing_files` whose image can be read; finds each only as it is asked for, by reading images."""
    return readable(missing_files(folder, images, suffix=suffix), images)


def readable(indices: list[int], images: ImageList) -> Iterator[int]:
    """Those of some indices whose image can be read, each as it is asked for."""
    for index in indices:
        try:
            read_image(images.path(index))
        except UnreadableImage:
            continue
        yield index


def write_meta(folder: str | Path, images: ImageList | None, *, tool: str, parameters: dict, versions: dict) -> None:
    """Note beside the files how they were made, and that every readable image of this listing has its file.

    Args:
        folder: where the files of a type and split lie.
        images: the listing that is complete; earlier ones, such as of a subset, stay noted. None for none yet.
        tool, parameters, versions: what made the files.
    """
    listings = dict(read_meta(folder).get("complete_listings", {}))
    if images is not None:
        listings[images.listing_hash] = len(images)
    meta = {"tool": tool, "parameters": parameters, "versions": versions, "complete_listings": listings}
    write_json(Path(folder) / "meta.json", meta)


def read_meta(folder: str | Path) -> dict:
    """The note of `write_meta`; empty where there is none or it is damaged: the files are then looked through again."""
    try:
        meta = read_json(Path(folder) / "meta.json")
    except (OSError, ValueError):
        return {}
    return meta if isinstance(meta, dict) else {}


def is_complete(folder: str | Path, images: ImageList) -> bool:
    """Whether the note says that every readable image of this listing has its file; looks at no file."""
    return images.listing_hash in read_meta(folder).get("complete_listings", {})
