"""What a worker of `tools.make_shards` does: one tar of images, label maps and notes."""

import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data.image_list import File, ImageList
from data.label_maps import label_map_file
from data.tar_headers import BLOCK
from tools.jobs import ItemFailed, writing
from utils.files import atomic_path
from utils.seeding import numpy_generator

# tar reads and writes so much at once; files that end elsewhere are read, with a warning by some.
_RECORD = 20 * BLOCK


def sample_keys(images: ImageList) -> list[bytes]:
    """The WebDataset key of each image: its path without suffix, where that is a key and no other image's.

    A key ends at the first dot of the last part of a path. `%` and further dots there become %25 and %2E, and of images that
    differ in their suffix alone, a.jpg and a.png, each takes its own along: a%-jpg and a%-png.
    """
    split = [_split_name(path) for path in images.paths.tolist()]
    counts = Counter(key for key, _ in split)
    return [key if counts[key] == 1 else key + b"%-" + suffix for key, suffix in split]


def _split_name(path: bytes) -> tuple[bytes, bytes]:
    folder, slash, base = path.rpartition(b"/")
    stem, _, suffix = base.rpartition(b".")
    return folder + slash + stem.replace(b"%", b"%25").replace(b".", b"%2E"), suffix


@dataclass(frozen=True)
class WriteShard:
    """Writes a shard, by its number, unless it is there.

    Attributes:
        images: the listing.
        mask_dirs: type -> MASK_DIR of the label maps to pack.
        keys: (N,) bytes, from `sample_keys`.
        folder: where the shards go.
        images_per_shard, seed: which images a shard holds: so many after each other in a random order.
    """

    images: ImageList
    mask_dirs: dict[str, Path]
    keys: np.ndarray
    folder: Path
    images_per_shard: int
    seed: int

    def __len__(self) -> int:
        """How many shards."""
        return -(-len(self.images) // self.images_per_shard)

    def path(self, number: int) -> Path:
        return self.folder / f"{self.images.split}-{number:06d}.tar"

    def members(self, number: int) -> np.ndarray:
        """The images of a shard. Together in one window, they must not be of one class, as they often are in the listing."""
        order = numpy_generator(self.seed).permutation(len(self.images))
        return order[number * self.images_per_shard : (number + 1) * self.images_per_shard]

    def __call__(self, number: int) -> bool:
        path = self.path(number)
        if path.exists():
            return False
        with writing(path), atomic_path(path) as temporary, open(temporary, "wb") as file:
            for index in self.members(number):
                for name, data in self._sample(int(index)):
                    _add(file, name, data)
            end = file.tell() + 2 * BLOCK
            file.write(bytes(2 * BLOCK + -end % _RECORD))
        return True

    def _sample(self, index: int) -> Iterator[tuple[bytes, bytes]]:
        """The parts of a sample: names and contents."""
        key, name = self.keys[index], self.images.name(index)
        yield key + b"." + os.fsencode(name).rpartition(b".")[2], _read(self.images.path(index))
        for mask_type, mask_dir in self.mask_dirs.items():
            # An image that cannot be read has none.
            if (file := label_map_file(self.images, index, mask_dir=mask_dir, mask_type=mask_type)).exists():
                yield key + f".{mask_type}.png".encode(), _read(file)
        note = {
            "relative_path": name,
            "split": self.images.split,
            "class": self.images.class_name(index),
            "place": index,
        }
        yield key + b".json", json.dumps(note).encode()


def _read(file: File) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ItemFailed(str(file), error.strerror or str(error)) from error


def _add(file: BinaryIO, name: bytes, data: bytes) -> None:
    entry = tarfile.TarInfo(os.fsdecode(name))
    # Neither who packs nor when is in it: the same files give the same bytes.
    entry.size, entry.mode = len(data), 0o644
    file.write(entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
    file.write(data)
    file.write(bytes(-len(data) % BLOCK))
