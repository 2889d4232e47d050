"""What lies where in a folder of WebDataset shards: a table, kept beside them, or made of the tars' headers.

WebDataset's rule: a file's key is its path up to the first dot of its last part; files of one key are one sample. Here KEY.jpg is
the image, KEY.TYPE.png its label map of a type, KEY.json a note, whose `relative_path` is the image's name where a key cannot be.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.image_list import IMAGE_SUFFIXES
from data.inside import check_name
from data.tar_headers import Part, read_parts
from utils.errors import DataError
from utils.files import atomic_path

INDEX = "index.npz"
_VERSION = 1
_NONE = (0, -1)
_MAX_NOTE = 1 << 16
_THREADS = 8
_EXTENSIONS = tuple(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)

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
        DataError: shards are missing, truncated, damaged or unknown to the index, or hold no images.
    """
    path = root / INDEX
    if path.exists():
        index = _load(path)
        _check_shards(root, index)
        return index
    _log.info("%s: no %s there; reading the headers of its tars", root, INDEX)
    index = make_index(root, list_tars(root))
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
            return ShardIndex(*(file[name] for name in ShardIndex._fields))
    # What damaged zip files make NumPy raise is not told anywhere.
    except Exception as error:
        raise DataError(
            f"{path}: damaged ({error}); delete it, and it is made again of the tars' headers at the next start"
        ) from error


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
        raise DataError(f"{root / min(there)}: a shard that {INDEX} does not know; delete one of the two")


def make_index(root: Path, shards: Sequence[str]) -> ShardIndex:
    """Read the headers of the tars of a folder.

    Raises:
        DataError: a tar is missing, truncated or damaged; two images have one name, or none is there.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        tables = list(pool.map(lambda name: _read_shard(root / name), shards))
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


class _Table(NamedTuple):
    """What one shard holds, as in ShardIndex."""

    paths: np.ndarray
    images: np.ndarray
    maps: dict[str, np.ndarray]

    def spans_of(self, mask_type: str) -> np.ndarray:
        return self.maps.get(mask_type, np.full((len(self.paths), 2), _NONE, dtype=np.int64))


def _read_shard(path: Path) -> _Table:
    names, images, maps = [], [], {}
    samples = _samples(path)
    notes = _noted_names(path, samples)
    for sample, noted in zip(samples, notes):
        row = len(names)
        found = [extension for extension in sample if extension.lower() in _EXTENSIONS]
        if not found:
            continue
        if len(found) > 1:
            both = " and ".join(os.fsdecode(sample[one].name) for one in found)
            raise DataError(f"{path}: two images of one key, {both}; label maps are called KEY.TYPE.png")
        image = sample[found[0]]
        names.append(noted or image.name.removeprefix(b"./"))
        check_name(os.fsdecode(names[-1]), path)
        images.append((image.offset, image.size))
        for extension in sample:
            if extension.endswith(".png"):
                maps.setdefault(extension.removesuffix(".png"), {})[row] = sample[extension][1:]
    spans = {one: np.array([rows.get(row, _NONE) for row in range(len(names))], np.int64) for one, rows in maps.items()}
    return _Table(np.array(names, dtype=np.bytes_), np.array(images, dtype=np.int64).reshape(-1, 2), spans)


def _samples(path: Path) -> list[dict[str, Part]]:
    """Extension -> part of each sample."""
    samples: dict[bytes, dict[str, Part]] = {}
    for part in read_parts(path):
        folder, slash, base = part.name.rpartition(b"/")
        stem, _, extension = base.partition(b".")
        # Hidden files are no samples.
        if stem and extension:
            sample = samples.setdefault(folder + slash + stem, {})
            sample[os.fsdecode(extension)] = part
    _warn_of_dots(path, samples.values())
    return list(samples.values())


def _warn_of_dots(path: Path, samples: Sequence[dict[str, Part]]) -> None:
    """Images whose names have dots are no images by WebDataset's rule; where all of a shard are so, it tells nothing else."""
    inner = Counter(
        extension.rpartition(".")[2].lower() for sample in samples for extension in sample if "." in extension
    )
    lost = sum(count for extension, count in inner.items() if extension in _EXTENSIONS and extension != "png")
    if lost:
        _log.warning(
            "%s: %d images there have more dots than one in their names and are left out, for WebDataset takes what follows "
            "the first one as an extension; `python -m tools.make_shards` names them so that they count",
            path,
            lost,
        )


def _noted_names(path: Path, samples: Sequence[dict[str, Part]]) -> list[bytes | None]:
    """The image's name by each sample's note, where it has one."""
    with open(path, "rb") as file:
        notes = [sample.get("json") for sample in samples]
        return [
            _noted_name(os.pread(file.fileno(), note.size, note.offset)) if note and note.size <= _MAX_NOTE else None
            for note in notes
        ]


def _noted_name(note: bytes) -> bytes | None:
    try:
        name = json.loads(note)["relative_path"]
    # Others' notes are what they like.
    except (ValueError, KeyError, TypeError):
        return None
    return os.fsencode(name) if isinstance(name, str) else None
