"""The nearest images of every image of a listing, in the features of a pretrained network."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import torch

from data.listing import ImageList
from data.ragged import save_array
from evaluation.features import CentreCrops, chunk_path, embed_chunks
from models.encoder import Encoder
from models.nearest import nearest
from utils.distributed import barrier, on_main, rank, world_size
from utils.errors import UserError
from utils.progress import ProgressBar

_IMAGES_A_CHUNK = 1024
_QUERIES = 1024


def find_neighbours(
    encoder: Encoder,
    images: ImageList,
    folder: Path,
    *,
    size: int,
    count: int,
    batch_size: int,
    memory_mb: int,
    workers: int,
    device: torch.device,
) -> np.ndarray:
    """The `count` images nearest to each, by the cosine of their features; all processes together, or what is there already.

    Args:
        encoder: on `device`.
        folder: neighbours.npy goes there, and features meanwhile; all processes see it.
        size: side of the centre crops that are embedded.
        batch_size: images embedded together.
        memory_mb: for similarities, a process; the features themselves take 4 bytes a number beside it.
        workers: processes that read images.
    Returns:
        (N, count) int32 numbers of images, nearest first; -1 where an image cannot be read.
    Raises:
        UserError: fewer other images than that.
    Source: ORL, section 3.2. Differs: exact with duplicates, whose order decides nothing; the release embeds all images twice.
    """
    if count >= len(images):
        raise UserError(
            f"neighbours.count: {count}, but there are only {len(images) - 1} other images in {images.root}"
        )
    path, features, blocks = folder / "neighbours.npy", folder / "features", folder / "neighbour_blocks"
    if not on_main(path.exists):
        chunks = np.array_split(np.arange(len(images)), -(-len(images) // _IMAGES_A_CHUNK))
        embed_chunks(
            partial(encoder, project=True),
            CentreCrops(images, size=size),
            chunks,
            features,
            dim=encoder.dim(project=True),
            counts=np.ones(len(images), dtype=np.int64),
            batch_size=batch_size,
            workers=workers,
            device=device,
            desc="images",
        )
        barrier()
        _search(_load(features, len(chunks)).to(device), blocks, count=count, memory_mb=memory_mb)
        barrier()
        on_main(lambda: save_array(path, _load(blocks, -(-len(images) // _QUERIES)).numpy()))
    for leftover in (features, blocks):
        on_main(lambda: shutil.rmtree(leftover, ignore_errors=True))
    return np.load(path)


def _load(folder: Path, number: int) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([np.load(chunk_path(folder, chunk)) for chunk in range(number)]))


def _search(bank: torch.Tensor, folder: Path, *, count: int, memory_mb: int) -> None:
    """Write this process' blocks of queries that are missing."""
    places = torch.arange(len(bank), device=bank.device).split(_QUERIES)
    mine = range(rank(), len(places), world_size())
    # For each row of the bank its similarities and what choosing among them takes, and a look at the row itself.
    block = max(1, memory_mb * 2**20 // (2 * 4 * (_QUERIES + bank.shape[1])))
    with ProgressBar(len(mine), desc="neighbours, blocks") as bar:
        for number, queries in enumerate(mine, start=1):
            path, own = chunk_path(folder, queries), places[queries]
            if not path.exists():
                save_array(path, nearest(bank[own], bank, own=own, count=count, block=block).int().cpu().numpy())
            bar.update(number)
