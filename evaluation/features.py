"""Features of images and of boxes, each embedded once: full batches across images, chunks across processes, files that a
stopped job goes on from.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.boxes import box_crop
from data.geometry import centre_crop, cut_image
from data.images import UnreadableImage, read_image
from data.listing import ImageList
from data.ragged import Ragged, map_array, save_array
from evaluation.ordered_reading import exact_kernels, prepare_images, read_in_order
from utils.distributed import rank, world_size
from utils.progress import ProgressBar


class CentreCrops(Dataset):
    """(1, 3, S, S) uint8: the middle of an image, S = `size`; (0, ...) where it cannot be read."""

    def __init__(self, images: ImageList, *, size: int):
        self.images, self.size = images, size

    def __getitem__(self, index: int) -> Tensor:
        try:
            image = read_image(self.images.path(index))
        except UnreadableImage:
            return torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)
        return cut_image(image, centre_crop(*image.shape[:2]), size=self.size)[None]


class BoxCrops(Dataset):
    """(n, 3, P, P) uint8: an image's n boxes cut out, P = `size`; (0, ...) where it cannot be read."""

    def __init__(self, images: ImageList, boxes: Ragged, *, size: int):
        self.images, self.boxes, self.size = images, boxes, size

    def __getitem__(self, index: int) -> Tensor:
        boxes, crops = self.boxes[index], torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)
        if len(boxes) == 0:
            return crops
        try:
            image = read_image(self.images.path(index))
        except UnreadableImage:
            return crops
        return torch.stack([cut_image(image, box_crop(box, image), size=self.size) for box in boxes])


def embed_chunks(
    encode: Callable[[Tensor], Tensor],
    crops: Dataset,
    chunks: Sequence[np.ndarray],
    folder: Path,
    *,
    dim: int,
    counts: np.ndarray,
    batch_size: int,
    dtype: torch.dtype = torch.float32,
    workers: int,
    device: torch.device,
    desc: str,
) -> int:
    """Embed the chunks that this process is to do and that are not there, one file each.

    Args:
        encode: (N, 3, S, S) normalised on `device` -> (N, D) float32.
        crops: gives the pictures of an image, by its number.
        chunks: numbers of images; the same on every process. What is in a file depends on its chunk alone.
        folder: of the files, seen by all processes.
        dim: D.
        counts: rows of every image, by its number; an image that gives none gets rows that are not a number.
        dtype: of the files.
        workers: processes that read.
        desc: what is counted, such as "images".
    Returns:
        How many pictures this process embedded.
    """
    todo = [chunk for chunk in range(rank(), len(chunks), world_size()) if not chunk_path(folder, chunk).exists()]
    order = [int(index) for chunk in todo for index in chunks[chunk]]
    arrived = read_in_order(crops, order, workers=workers, device=device)
    read, embedded = 0, 0

    def embed(pictures: list[Tensor]) -> Tensor:
        return encode(prepare_images(torch.cat(pictures), device)).cpu()

    with exact_kernels(), ProgressBar(len(order), desc=desc) as bar:
        for chunk in todo:
            rows, present, waiting = [], [], _Waiting(batch_size)
            for index in chunks[chunk]:
                pictures, count = next(arrived), int(counts[index])
                present += [len(pictures) > 0] * count
                rows += [embed(batch) for batch in waiting.add(pictures)]
                read += 1
                bar.update(read)
            rows += [embed(batch) for batch in waiting.rest()]
            features = torch.full((len(present), dim), float("nan"))
            if rows:
                features[torch.tensor(present)] = torch.cat(rows)
            embedded += sum(present)
            save_array(chunk_path(folder, chunk), features.to(dtype).numpy())
    return embedded


class _Waiting:
    """Pictures of several images, until there are enough for a full batch."""

    def __init__(self, batch_size: int):
        self._batch_size, self._pictures, self._count = batch_size, [], 0

    def add(self, pictures: Tensor) -> Iterator[list[Tensor]]:
        """Full batches, as far as there are any now."""
        while self._count + len(pictures) >= self._batch_size:
            missing = self._batch_size - self._count
            yield [*self._pictures, pictures[:missing]]
            pictures, self._pictures, self._count = pictures[missing:], [], 0
        self._pictures.append(pictures)
        self._count += len(pictures)

    def rest(self) -> Iterator[list[Tensor]]:
        """What is left, as the last batch."""
        if self._count:
            yield self._pictures


def chunk_path(folder: Path, chunk: int) -> Path:
    return folder / f"{chunk:05d}.npy"


class RowStore:
    """Rows of features by image, out of the files of `embed_chunks`, memory-mapped.

    Args:
        folder, chunks, counts: as they were embedded.
    """

    def __init__(self, folder: Path, chunks: Sequence[np.ndarray], counts: np.ndarray):
        self._counts, self._chunk, self._first = counts, {}, {}
        for number, chunk in enumerate(chunks):
            starts = np.cumsum(counts[chunk]) - counts[chunk]
            self._chunk |= dict.fromkeys(chunk.tolist(), number)
            self._first |= dict(zip(chunk.tolist(), starts.tolist()))
        # Each mapped file holds a file descriptor, of which a process may have some thousand.
        self._open = lru_cache(maxsize=256)(lambda number: map_array(chunk_path(folder, number)))

    def __getitem__(self, index: int) -> np.ndarray:
        """(n, D) the rows of an image."""
        first = self._first[index]
        return self._open(self._chunk[index])[first : first + self._counts[index]]
