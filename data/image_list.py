"""The images of a split: where each one lies, and under which name it counts."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif", ".jp2")


def hash_paths(paths: np.ndarray) -> str:
    """SHA-256 of (N,) relative paths in their order, which is what a listing is known by."""
    return hashlib.sha256(b"\n".join(paths.tolist())).hexdigest()


class File(Protocol):
    """A file that can be read: a Path, or a part of a shard. Its text, `str(file)`, is what messages call it."""

    def read_bytes(self) -> bytes:
        """The whole; an OSError where there is none."""

    def open(self, mode: str) -> BinaryIO:
        """To read with mode "rb"."""

    def exists(self) -> bool: ...


def as_file(place: str | File) -> File:
    """What a path names; a file is itself."""
    return Path(place) if isinstance(place, str) else place


class HeldMaps(Protocol):
    """Label maps of one type that lie where the images do."""

    def file(self, index: int) -> File:
        """Of an image; it does not exist where the image has none."""

    def missing(self) -> list[int]:
        """Indices of the images that have none."""


@dataclass(frozen=True)
class ImageList:
    """Image files below one folder; data.shards.ShardedImages is one whose images lie in tar files.

    Attributes:
        root: the folder of the split.
        split: the split's name as asked for.
        paths: (N,) bytes, relative to `root`, sorted; one array, so that workers share its memory.
    """

    root: Path
    split: str
    paths: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The image's path relative to `root`."""
        return os.fsdecode(self.paths[index])

    def path(self, index: int) -> File:
        """The image's file."""
        return self.root / self.name(index)

    def class_name(self, index: int) -> str:
        """The first folder of the image's relative path, "" for an image in `root` itself."""
        return self.name(index).rpartition("/")[0].partition("/")[0]

    @cached_property
    def listing_hash(self) -> str:
        """SHA-256 of the relative paths: the same list on another machine has the same hash."""
        return hash_paths(self.paths)

    @property
    def packing(self) -> str:
        """What tells apart shards that hold the same images at other places, for messages; empty where there are none."""
        return ""

    @property
    def shard_of(self) -> np.ndarray | None:
        """(N,) the number of the shard that an image lies in; None where images are files of their own."""
        return None

    def held_maps(self, mask_dir: str | Path, mask_type: str) -> HeldMaps | None:
        """Label maps that lie in MASK_DIR beside the images; None where they are files of their own there, or none at all."""
        return None

    def select(self, indices: Sequence[int] | np.ndarray) -> "ImageList":
        """The list of some of the images, in this order."""
        return replace(self, paths=self.paths[indices])
