"""Which boxes of an image show what boxes of its neighbours show: every box embedded once, then matched by matrix products."""

import logging
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data.listing import ImageList
from data.ragged import Ragged
from evaluation.features import BoxCrops, RowStore, embed_chunks
from models.box_pairs import match_boxes
from models.encoder import Encoder
from utils.distributed import barrier, on_main, rank, world_size
from utils.errors import UserError
from utils.progress import ProgressBar

_log = logging.getLogger(__name__)
_BOXES_A_CHUNK = 8192
_QUERIES = 256
_FEATURES = "box_features"
_DTYPES = {"float16": torch.float16, "float32": torch.float32}


class Part(NamedTuple):
    """Blocks of images that are matched while the features they need are on disk."""

    blocks: list[np.ndarray]  # numbers of images, _QUERIES together
    chunks: list[np.ndarray]  # the same images and their neighbours, in the order in which they are embedded
    num_boxes: int


def find_pairs(
    encoder: Encoder,
    images: ImageList,
    boxes: Ragged,
    neighbours: np.ndarray,
    folder: Path,
    *,
    share: float,
    size: int,
    batch_size: int,
    store: str,
    parts: int,
    workers: int,
    device: torch.device,
) -> Ragged:
    """Match every image's boxes with those of its neighbours, all processes together, or what is there already.

    Args:
        encoder: on `device`; its pooled features are compared.
        boxes: of every image.
        neighbours: (N, K) numbers of images, -1 for none.
        folder: pairs.npy and pairs_offsets.npy go there, and features meanwhile; all processes see it.
        share: pairs kept with a neighbour, as a share of the image's boxes, at least one.
        size: side of a cut-out box.
        batch_size: boxes embedded together.
        store: float16 or float32, the features on disk.
        parts: the images are matched in so many parts, each with its own features on disk, which are deleted after it.
        workers: processes that read images.
    Returns:
        Row i K + k: (n, 8) boxes of image i beside the boxes of its k-th neighbour that they match, best first.
    Raises:
        UserError: the disk has no room for the features.
    Source: ORL, section 3.2. Differs: the release embeds an image's boxes again for every image whose neighbour it is.
    """
    stem, results = folder / "pairs", folder / "pair_blocks"
    embed = partial(
        embed_chunks,
        partial(encoder, project=False),
        BoxCrops(images, boxes, size=size),
        dim=encoder.dim(project=False),
        counts=boxes.lengths,
        batch_size=batch_size,
        dtype=_DTYPES[store],
        workers=workers,
        device=device,
    )
    for number in range(0 if on_main(lambda: Ragged.exists(stem)) else parts):
        part = plan_part(boxes, neighbours, number=number, parts=parts)
        barrier()
        if on_main(lambda: all(Ragged.exists(_stem(results, block)) for block in part.blocks)):
            continue
        features = folder / f"{_FEATURES}_{number}of{parts}"
        needed = part.num_boxes * encoder.dim(project=False) * _DTYPES[store].itemsize
        on_main(lambda: _make_room(features, needed))
        desc = f"boxes of {sum(map(len, part.chunks))} images" + (f", part {number + 1}/{parts}" if parts > 1 else "")
        embed(part.chunks, features, desc=desc)
        barrier()
        # Not kept in a variable: files that are mapped take disk until they are not, deleted or not.
        _match(
            RowStore(features, part.chunks, boxes.lengths), part, boxes, neighbours, results, share=share, device=device
        )
    barrier()
    on_main(lambda: _assemble(results, stem, len(boxes)))
    return Ragged.load(stem)


def plan_part(boxes: Ragged, neighbours: np.ndarray, *, number: int, parts: int) -> Part:
    """What the `number`-th of `parts` matches, and what it needs for that; the same on every process."""
    blocks = np.array_split(np.arange(len(boxes)), range(_QUERIES, len(boxes), _QUERIES))
    mine = np.array_split(np.arange(len(blocks)), parts)[number]
    queries = np.concatenate([blocks[block] for block in mine] or [np.zeros(0, np.int64)])
    needed = np.union1d(queries, neighbours[queries])
    needed = needed[needed >= 0]
    ends = np.cumsum(boxes.lengths[needed])
    # An image is not divided between chunks.
    borders = np.flatnonzero(np.diff(ends // _BOXES_A_CHUNK)) + 1
    total = int(ends[-1]) if len(ends) else 0
    return Part([blocks[block] for block in mine], np.array_split(needed, borders), total)


def count_forwards(boxes: Ragged, neighbours: np.ndarray, *, parts: int) -> dict[str, int]:
    """Boxes that are embedded here, and by the published procedure: an image's own and all its neighbours', image by image."""
    here = sum(plan_part(boxes, neighbours, number=number, parts=parts).num_boxes for number in range(parts))
    lengths = np.append(boxes.lengths, 0)
    return {"boxes_embedded": here, "boxes_embedded_as_published": int(lengths.sum() + lengths[neighbours].sum())}


def _match(
    store: RowStore,
    part: Part,
    boxes: Ragged,
    neighbours: np.ndarray,
    folder: Path,
    *,
    share: float,
    device: torch.device,
) -> None:
    """Write the pairs of this process' blocks that are missing."""
    mine = part.blocks[rank() :: world_size()]
    with ProgressBar(len(mine), desc=f"pairs, blocks of {_QUERIES} images") as bar:
        for number, block in enumerate(mine, start=1):
            if not Ragged.exists(_stem(folder, block)):
                rows = (pairs for index in block for pairs in _pairs_of(index, store, boxes, neighbours, share, device))
                Ragged.from_rows(rows, width=8, dtype=np.uint16).save(_stem(folder, block))
            bar.update(number)


def _pairs_of(
    index: int, store: RowStore, boxes: Ragged, neighbours: np.ndarray, share: float, device: torch.device
) -> Iterator[np.ndarray]:
    """(n, 8) of one image with each of its neighbours; none where one of the two has no box that could be read."""
    query = _usable(store, index, boxes)
    usable = [_usable(store, key, boxes) if key >= 0 else query[:0] for key in neighbours[index]]
    found = match_boxes(query.to(device), [key.to(device) for key in usable], share=share)
    for key, (own, other) in zip(neighbours[index], found):
        yield np.concatenate([boxes[index][own.cpu().numpy()], boxes[max(key, 0)][other.cpu().numpy()]], axis=1)


def _usable(store: RowStore, index: int, boxes: Ragged) -> torch.Tensor:
    rows = torch.from_numpy(np.array(store[index]))
    # An image that could not be read gave rows that are not a number, all of them.
    return rows if rows.isfinite().all() else rows[:0]


def _make_room(folder: Path, needed: int) -> None:
    """Room for the features of a part: those of other parts, and of a job stopped with another number of them, go."""
    for other in _feature_folders(folder.parent) - {folder}:
        shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    there, free = sum(path.stat().st_size for path in folder.iterdir()), shutil.disk_usage(folder).free
    _log.info("features of boxes take %.1f GB of disk meanwhile, in %s", needed / 1e9, folder)
    if needed - there > free:
        raise UserError(
            f"{folder}: {needed / 1e9:.1f} GB are needed for features of boxes and {free / 1e9:.1f} GB are free: raise "
            f"pairs.parts, or delete {folder.parent} and lower proposals.top_n, or give another --out"
        )


def _feature_folders(folder: Path) -> set[Path]:
    return set(folder.glob(f"{_FEATURES}_*"))


def _stem(folder: Path, block: np.ndarray) -> Path:
    return folder / f"{block[0]:08d}"


def _assemble(results: Path, stem: Path, num_images: int) -> None:
    """Gather the blocks, unless that is done, and remove what is not needed any more."""
    if not Ragged.exists(stem):
        blocks = [Ragged.load(results / f"{first:08d}") for first in range(0, num_images, _QUERIES)]
        Ragged.concatenate(blocks).save(stem)
    for leftover in (results, *_feature_folders(stem.parent)):
        shutil.rmtree(leftover, ignore_errors=True)
