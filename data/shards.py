"""Images in WebDataset shards: tars that are read in place, each image or label map by one pread."""

import errno
import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from data.image_list import IMAGE_SUFFIXES, ImageList
from data.shard_index import INDEX, ShardIndex, find_index

# Of each process: a window's shards, with room to spare; a limit of 1,024 files is common.
_OPEN_SHARDS = 64


class ShardFile(NamedTuple):
    """A file in a shard, a data.image_list.File.

    Attributes:
        shard: the tar.
        name: what it is called in messages.
        offset, size: its bytes; a size below 0 says that there is none.
    """

    shard: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}: {self.name}"

    def exists(self) -> bool:
        return self.size >= 0

    def read_bytes(self) -> bytes:
        if not self.exists():
            raise FileNotFoundError(errno.ENOENT, "not in the shard", str(self))
        # Held while it is read: another thread may open more shards, and this one be closed.
        shard = _opened(self.shard)
        data = os.pread(shard.number, self.size, self.offset)
        # File systems over a network may give less than was asked for, and 2 GB are the most that any gives.
        while len(data) < self.size and (
            more := os.pread(shard.number, self.size - len(data), self.offset + len(data))
        ):
            data += more
        if len(data) < self.size:
            raise OSError(errno.EIO, "the shard ends within it", str(self))
        return data

    def open(self, mode: str) -> BinaryIO:
        if mode != "rb":
            raise io.UnsupportedOperation(f"{self}: shards are only read")
        return io.BytesIO(self.read_bytes())


class _Opened:
    """A file to read from by place, closed when the last who reads lets go of it."""

    def __init__(self, path: str):
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self):
        if hasattr(self, "number"):
            os.close(self.number)


# Opened when first read from, by each process for itself; reading by place, a fork may share them too.
_opened = lru_cache(maxsize=_OPEN_SHARDS)(_Opened)


def close_shards() -> None:
    """Close what this process has open; what is read next is opened again."""
    _opened.cache_clear()


@dataclass(frozen=True)
class ShardedMaps:
    """Label maps of one type in the shards of their images, a data.image_list.HeldMaps.

    Attributes:
        images: whose maps they are.
        mask_type: which.
        spans: (N, 2) first byte and size, -1 where there is none.
    """

    images: "ShardedImages"
    mask_type: str
    spans: np.ndarray

    def file(self, index: int) -> ShardFile:
        name = f"{self.images.name(index)} ({self.mask_type})"
        return ShardFile(self.images.shard(index), name, *self.spans[index].tolist())

    def missing(self) -> list[int]:
        return np.flatnonzero(self.spans[:, 1] < 0).tolist()


@dataclass(frozen=True)
class ShardedImages(ImageList):
    """Image files in the tars of one folder; names, order and hash are those of the folder that they were made of.

    Attributes:
        index: where what lies; its rows are the list's, one an image.
    """

    index: ShardIndex

    def shard(self, index: int) -> str:
        """The tar that an image lies in."""
        return os.path.join(self.root, os.fsdecode(self.index.shards[self.index.shard_of[index]]))

    def path(self, index: int) -> ShardFile:
        return ShardFile(self.shard(index), self.name(index), *self.index.images[index].tolist())

    @cached_property
    def packing(self) -> str:
        digest = hashlib.sha256()
        for one in self.index:
            digest.update(np.ascontiguousarray(one))
        return f" in shards {digest.hexdigest()[:12]}"

    @property
    def shard_of(self) -> np.ndarray:
        return self.index.shard_of

    @property
    def mask_types(self) -> list[str]:
        """The types of the label maps in the shards."""
        return [os.fsdecode(one) for one in self.index.types]

    def held_maps(self, mask_dir: str | Path, mask_type: str) -> ShardedMaps | None:
        if mask_type not in self.mask_types or _real_path(mask_dir) != _real_path(self.root):
            return None
        return ShardedMaps(self, mask_type, self.index.maps[self.mask_types.index(mask_type)])

    def select(self, indices: Sequence[int] | np.ndarray) -> "ShardedImages":
        index = self.index
        chosen = index._replace(
            paths=index.paths[indices],
            shard_of=index.shard_of[indices],
            images=index.images[indices],
            maps=index.maps[:, indices],
        )
        return replace(self, paths=chosen.paths, index=chosen)


def _real_path(place: str | Path) -> str:
    return _followed(os.path.abspath(place))


# It is asked for every image's map, and each link of it would be a request to the storage.
_followed = lru_cache(maxsize=64)(os.path.realpath)


def open_shards(root: Path, split: str) -> ShardedImages:
    """The images in the shards of a folder, sorted by their names.

    Raises:
        DataError: shards are missing, truncated or damaged; names them.
    """
    index = find_index(root)
    return ShardedImages(root, split, index.paths, index)


def holds_shards(root: Path, skipped: Sequence[str] = ()) -> bool:
    """Whether a folder holds shards: tars with neither images nor folders beside them, or with an index of them; or an index
    alone, whose shards are then missing.

    Args:
        skipped: names of folders that do not count.
    """
    has_index, has_tars, has_others = (root / INDEX).exists(), False, False
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name in skipped:
                continue
            # What an archive was unpacked into lies beside it often enough.
            has_others |= entry.name.lower().endswith(IMAGE_SUFFIXES) or entry.is_dir()
            has_tars |= entry.name.endswith(".tar")
            if has_index and has_tars or has_others and not has_index:
                return has_index
    return (has_tars or has_index) and not has_others
