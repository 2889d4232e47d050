"""What ORL's second stage finds: boxes of every image, its neighbour images, and matched pairs of boxes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.ragged import Ragged, map_array, save_array
from utils.errors import DataError

_REMEDY = "`python orl_main.py --stage 2` makes it again"


@dataclass(frozen=True, eq=False)
class Correspondence:
    """Boxes, neighbours and pairs of N images; image numbers are places in the listing.

    A loaded one is pickled by its folder, so that worker processes share its pages.

    Attributes:
        boxes: N rows of (n, 4) uint16, the filtered proposals: x, y, w, h in pixels of the upright image.
        neighbours: (N, K) int32 images, the most similar first; -1 where there is none.
        pairs: N * K rows of (n, 8) uint16, row i * K + k for the k-th neighbour of image i: a box of the image, then the
            box of the neighbour that it matches; the most similar first. Rows may be empty.
        folder: where it was loaded from; None where it was not.
    Raises:
        ValueError: the parts do not belong together.
    """

    boxes: Ragged
    neighbours: np.ndarray
    pairs: Ragged
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.neighbours.ndim != 2 or self.neighbours.dtype != np.int32:
            raise ValueError(f"neighbours are (N, K) int32, not {self.neighbours.shape} {self.neighbours.dtype}")
        for name, rows, width in (("boxes", self.boxes, 4), ("pairs", self.pairs, 8)):
            if rows.values.shape[1] != width or rows.values.dtype != np.uint16:
                raise ValueError(
                    f"{name} have {width} columns of uint16, not {rows.values.shape[1:]} {rows.values.dtype}"
                )
        N, K = self.neighbours.shape
        if len(self.boxes) != N or len(self.pairs) != N * K:
            raise ValueError(f"{len(self.boxes)} rows of boxes and {len(self.pairs)} of pairs for {N} images x {K}")
        if self.neighbours.size and not -1 <= self.neighbours.min() <= self.neighbours.max() < N:
            raise ValueError(f"neighbours are images from 0 to {N - 1}, or -1 for none")

    def __len__(self) -> int:
        return len(self.neighbours)

    def __reduce__(self) -> tuple:
        if self.folder is None:
            return Correspondence, (self.boxes, self.neighbours, self.pairs)
        return load_correspondence, (self.folder,)

    def pairs_of(self, image: int, rank: int) -> np.ndarray:
        """(n, 8) pairs of an image with its neighbour of that rank, 0 for the most similar."""
        K = self.neighbours.shape[1]
        if not 0 <= rank < K:
            raise IndexError(f"neighbour {rank} of {K}")
        return self.pairs[image * K + rank]

    def nearest(self, count: int) -> "Correspondence":
        """The same with the `count` most similar neighbours of each image alone."""
        rows = (self.pairs_of(image, rank) for image in range(len(self)) for rank in range(count))
        pairs = Ragged.from_rows(rows, width=8, dtype=np.uint16)
        return Correspondence(self.boxes, self.neighbours[:, :count].copy(), pairs)

    def save(self, folder: str | Path) -> None:
        """Write the five files; killed in between, there is nothing that could be loaded."""
        folder = Path(folder)
        # Written last, so without it an older store is not complete, and never mixed with this one.
        (folder / "pairs_offsets.npy").unlink(missing_ok=True)
        self.boxes.save(folder / "boxes")
        save_array(folder / "neighbours.npy", self.neighbours)
        self.pairs.save(folder / "pairs")


def load_correspondence(folder: str | Path) -> Correspondence:
    """Map what `Correspondence.save` wrote; boxes and pairs are read when asked for.

    Raises:
        DataError: a file is missing or damaged, or they do not belong together; names it and the remedy.
    """
    folder = Path(folder).absolute()
    try:
        pairs, boxes = Ragged.load(folder / "pairs"), Ragged.load(folder / "boxes")
        return Correspondence(boxes, map_array(folder / "neighbours.npy"), pairs, folder)
    except ValueError as error:
        raise DataError(f"{folder}: {error}; {_REMEDY}") from error
    except DataError as error:
        raise DataError(f"{error}: {_REMEDY}") from error
