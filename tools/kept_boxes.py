"""Which of an image's proposals are kept as its boxes."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.boxes import filter_boxes
from data.images import UnreadableImage
from data.listing import ImageList
from data.orientation import upright_shape
from data.proposals import proposal_path, read_proposals
from data.ragged import Ragged
from tools.jobs import run_job
from utils.distributed import barrier, on_main, rank, world_size

_IMAGES_A_CHUNK = 256


@dataclass(frozen=True)
class BoxRule:
    """Which boxes are kept: see `data.boxes.filter_boxes`."""

    min_size: int
    max_ratio: float
    max_iou: float
    top_n: int


@dataclass(frozen=True)
class ProposalFiles:
    """The proposals of a listing's images as `tools.make_proposals` keeps them; None for an image without a file."""

    images: ImageList
    folder: Path
    type: str

    def __getitem__(self, index: int) -> np.ndarray | None:
        path = proposal_path(self.folder, self.type, self.images.split, self.images.name(index))
        return read_proposals(path) if path.exists() else None


@dataclass(frozen=True)
class KeepBoxes:
    """Chooses the boxes of a chunk of images, and writes them to a file.

    An image in which nothing was found is its own box, whole; one that cannot be read has none.
    """

    images: ImageList
    proposals: Sequence[np.ndarray | None]
    rule: BoxRule
    folder: Path

    def __call__(self, chunk: int) -> bool:
        first = chunk * _IMAGES_A_CHUNK
        numbers = range(first, min(first + _IMAGES_A_CHUNK, len(self.images)))
        Ragged.from_rows(map(self._kept, numbers), width=4, dtype=np.uint16).save(_stem(self.folder, chunk))
        return True

    def _kept(self, index: int) -> np.ndarray:
        proposals = self.proposals[index]
        if proposals is None or len(proposals) == 0:
            return _whole(self.images.path(index))
        return filter_boxes(proposals, **vars(self.rule))


def keep_boxes(
    images: ImageList,
    proposals: Sequence[np.ndarray | None],
    folder: Path,
    *,
    rule: BoxRule,
    workers: int | None = None,
) -> Ragged:
    """The boxes of every image, all processes and cores together, or what is there already.

    Args:
        proposals: of each image, in the order in which they were found.
        folder: boxes.npy and boxes_offsets.npy go there; all processes see it.
        workers: processes of this process; None for its share of the cores.
    """
    stem, parts = folder / "boxes", folder / "box_chunks"
    if not on_main(lambda: Ragged.exists(stem)):
        mine = range(rank(), _num_chunks(images), world_size())
        todo = [chunk for chunk in mine if not Ragged.exists(_stem(parts, chunk))]
        task = KeepBoxes(images, proposals, rule, parts)
        run_job(task, todo, workers=workers, desc=f"boxes, chunks of {_IMAGES_A_CHUNK} images")
        barrier()
        on_main(lambda: _assemble(parts, stem, _num_chunks(images)))
    on_main(lambda: shutil.rmtree(parts, ignore_errors=True))
    return Ragged.load(stem)


def _num_chunks(images: ImageList) -> int:
    return -(-len(images) // _IMAGES_A_CHUNK)


def _stem(folder: Path, chunk: int) -> Path:
    return folder / f"{chunk:05d}"


def _whole(path: Path) -> np.ndarray:
    try:
        height, width = upright_shape(path)
    except UnreadableImage:
        return np.zeros((0, 4), np.uint16)
    # Longer sides than 16 bits can tell are cut.
    return np.array([[0, 0, width, height]]).clip(max=65535).astype(np.uint16)


def _assemble(parts: Path, stem: Path, number: int) -> None:
    Ragged.concatenate([Ragged.load(_stem(parts, chunk)) for chunk in range(number)]).save(stem)
