"""The samples of one tar, by WebDataset's rule.

A file's key is its path up to the first dot of its last part; files of one key are one sample. Here KEY.jpg is the image,
KEY.TYPE.png its label map of a type, KEY.json a note, whose `relative_path` is the image's name where a key cannot be.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.image_list import IMAGE_SUFFIXES
from data.inside import check_name
from data.tar_headers import Part, read_parts
from utils.errors import DataError

_NONE = (0, -1)
_MAX_NOTE = 1 << 16
_EXTENSIONS = tuple(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)

_log = logging.getLogger(__name__)


class Samples(NamedTuple):
    """What one shard holds, N images.

    Attributes:
        paths: (N,) bytes, the images' names.
        images: (N, 2) first byte and size.
        maps: type -> (N, 2) first byte and size of each map; size -1 where there is none.
    """

    paths: np.ndarray
    images: np.ndarray
    maps: dict[str, np.ndarray]

    def spans_of(self, mask_type: str) -> np.ndarray:
        """(N, 2) those of a type, of which there need be none."""
        return self.maps.get(mask_type, np.full((len(self.paths), 2), _NONE, dtype=np.int64))


def read_samples(path: Path) -> Samples:
    """The samples of a tar that have an image, by its headers and notes.

    Raises:
        DataError: it is missing, truncated or damaged, a name leaves its folder, or two images have one key.
    """
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
    return Samples(np.array(names, dtype=np.bytes_), np.array(images, dtype=np.int64).reshape(-1, 2), spans)


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
    """The name that a note tells; None where it tells none that can be one."""
    # Others' notes are what they like: no JSON, nested without end, a name of their machine's or of no text.
    try:
        return os.fsencode(check_name(json.loads(note)["relative_path"], "the note"))
    except (ValueError, KeyError, TypeError, RecursionError, DataError):
        return None
