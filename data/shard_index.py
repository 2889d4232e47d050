"""What lies where in a folder of WebDataset shards: a table, kept beside them, or made of the tars' headers."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.image_list import hash_paths
from data.inside import check_name
from data.shard_samples import read_samples
from utils.errors import DataError
from utils.files import atomic_path, read_json

INDEX = "index.npz"
# What `tools.make_shards` packs there, from its start on.
NOTE = "meta.json"
_VERSION = 1
_THREADS = 8

_log = logging.getLogger(__name__)


class ShardIndex(NamedTuple):
    """Where images and label maps lie, S shards, N images, T types of maps.

    Attributes:
        shards: (S,) bytes, the tars' names, sorted.
        shard_bytes: (S,) their sizes.
        paths: (N,) bytes, the images' names, sorted.
        shard_of: (N,) the number of an image's shard.
        images: (N, 2) first byte and size.
        types: (T,) bytes, sorted.
        maps: (T, N, 2) first byte and size of each map; size -1 where there is none.
    """

    shards: np.ndarray
    shard_bytes: np.ndarray
    paths: np.ndarray
    shard_of: np.ndarray
    images: np.ndarray
    types: np.ndarray
    maps: np.ndarray


def list_tars(root: Path) -> list[str]:
    """The names of the tars in a folder, sorted."""
    return sorted(entry.name for entry in os.scandir(root) if entry.name.endswith(".tar") and entry.name[0] != ".")


def find_index(root: Path) -> ShardIndex:
    """The index of a folder of shards: as it is kept there, or made, and kept for the next time.

    Raises:
        DataError: shards are missing, not yet made, truncated, damaged or unknown to the index, or hold no images.
    """
    path = root / INDEX
    if path.exists():
        index = _load(path)
        _check_shards(root, index)
        return index
    _log.info("%s: no %s there; reading the headers of its tars", root, INDEX)
    index = make_index(root, list_tars(root))
    _check_packed(root, index)
    try:
        write_index(root, index)
    except OSError as error:
        _log.warning("%s: %s; the tars' headers are read at every start", path, error.strerror)
    return index


def write_index(root: Path, index: ShardIndex) -> None:
    """Keep an index beside its shards, atomically."""
    with atomic_path(root / INDEX) as temporary:
        np.savez(temporary, version=_VERSION, **index._asdict())


def _load(path: Path) -> ShardIndex:
    try:
        with np.load(path) as file:
            if int(file["version"]) != _VERSION:
                raise ValueError("of another version")
            index = ShardIndex(*(file[name] for name in ShardIndex._fields))
        _check_arrays(index)
        _check_names(index.paths, path)
        return index
    # What damaged zip files make NumPy raise is not told anywhere.
    except Exception as error:
        raise DataError(
            f"{path}: damaged ({error}); delete it, and it is made again of the tars' headers at the next start"
        ) from error


def _check_arrays(index: ShardIndex) -> None:
    """Refuse an index that leads out of its shards, or whose images are in disorder.

    Raises:
        ValueError: what is wrong.
    """
    S, N, T = len(index.shards), len(index.paths), len(index.types)
    shapes = ((S,), (S,), (N,), (N,), (N, 2), (T,), (T, N, 2))
    for (name, array), shape, kind in zip(index._asdict().items(), shapes, "SiSiiSi"):
        # A type of no maps is an array of no type.
        if array.shape != shape or (array.dtype.kind != kind and array.size):
            raise ValueError(f"{name}: {array.dtype} of shape {array.shape}")
    if not N or not np.all(index.paths[1:] > index.paths[:-1]):
        raise ValueError("paths: none, or in disorder")
    if index.shard_of.min() < 0 or index.shard_of.max() >= S:
        raise ValueError(f"shard_of: other shards than the {S} that there are")
    ends = index.shard_bytes[index.shard_of]
    for name, spans in (("images", index.images), ("maps", index.maps)):
        start, size = spans[..., 0], spans[..., 1]
        # Not the sum of both, which might be more than a number can say.
        if np.any((start < 0) | (size < (0 if name == "images" else -1)) | (size > ends - start)):
            raise ValueError(f"{name}: bytes beyond their shard's")


def _check_names(paths: np.ndarray, source: Path) -> None:
    """Refuse names that leave the folder: only those that look like it are checked one by one, since there may be millions."""
    letters = np.ascontiguousarray(paths).view(np.uint8).reshape(len(paths), -1)
    left, right = letters[:, :-1], letters[:, 1:]
    odd = np.isin(letters[:, 0], list(b"\0./")) | ((letters == ord("\\")) | (letters == ord(":"))).any(1)
    odd |= (((left == ord(".")) & (right == ord("."))) | ((left == 0) & (right != 0))).any(1)
    for name in paths[odd].tolist():
        check_name(os.fsdecode(name), source)


def _check_packed(root: Path, index: ShardIndex) -> None:
    """Refuse shards of which `tools.make_shards` has not made all: others would be trained on as if they were the whole."""
    if not (root / NOTE).exists():
        return
    note = read_json(root / NOTE)
    noted = note.get("listing") if isinstance(note, dict) else None
    if noted is not None and noted != hash_paths(index.paths):
        raise DataError(
            f"{root}: not all of its shards are there: end `python -m tools.make_shards` with the options that it was begun "
            f"with, on all parts; or delete {root / NOTE}, and the tars count as they are"
        )


def _check_shards(root: Path, index: ShardIndex) -> None:
    remedy = f"copy it again; or delete {root / INDEX}, and the next start takes the tars as they are"
    there = set(list_tars(root))
    for name, size in zip(map(os.fsdecode, index.shards), index.shard_bytes):
        if name not in there:
            raise DataError(f"{root / name}: the shard is missing; {remedy}")
        found = (root / name).stat().st_size
        if found != size:
            raise DataError(f"{root / name}: truncated or changed: {found} bytes where {size} were; {remedy}")
        there.remove(name)
    if there:
        raise DataError(
            f"{root / min(there)}: a shard that {INDEX} does not know; delete {root / INDEX}, and it is made again; or the "
            "shard, if it does not belong there"
        )


def make_index(root: Path, shards: Sequence[str]) -> ShardIndex:
    """Read the headers of the tars of a folder.

    Raises:
        DataError: a tar is missing, truncated or damaged; two images have one name, or none is there.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        tables = list(pool.map(lambda name: read_samples(root / name), shards))
    paths = np.concatenate([table.paths for table in tables])
    if not len(paths):
        raise DataError(
            f"{root}: no image in its {len(shards)} tars: samples are KEY.jpg (or another image), KEY.TYPE.png"
        )
    order, types = np.argsort(paths, kind="stable"), sorted({one for table in tables for one in table.maps})
    numbers = np.repeat(np.arange(len(shards), dtype=np.int32), [len(table.paths) for table in tables])
    paths, numbers = paths[order], numbers[order]
    twice = np.flatnonzero(paths[1:] == paths[:-1])
    if len(twice):
        first, second = (root / shards[numbers[twice[0] + step]] for step in (0, 1))
        raise DataError(f"{first}: its image {os.fsdecode(paths[twice[0]])} is in {second} too; delete one")
    maps = [np.concatenate([table.spans_of(one) for table in tables])[order] for one in types]
    return ShardIndex(
        shards=np.array([os.fsencode(name) for name in shards]),
        shard_bytes=np.array([(root / name).stat().st_size for name in shards]),
        paths=paths,
        shard_of=numbers,
        images=np.concatenate([table.images for table in tables])[order],
        types=np.array([os.fsencode(one) for one in types], dtype=np.bytes_),
        maps=np.stack(maps) if maps else np.zeros((0, len(paths), 2), dtype=np.int64),
    )
