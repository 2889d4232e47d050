"""Pictures of what ORL's stages find: neighbour images, proposals, matched pairs of boxes, and the patches it trains on."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torch import nn

from data.correspondence import Correspondence
from data.images import UnreadableImage, read_image
from data.listing import ImageList
from data.ragged import Ragged
from tools.pictures import GAP, TILE, ViewPictures, colour, resize, stack

NUM_PAIRS = 3  # shown of an image and its neighbour
_LINE = 2
_DARK = 0.5  # of a photo's brightness, under proposals
_UNREADABLE = 128  # grey of its tile


class PatchPictures(ViewPictures):
    """Draws both views of some images, and the pairs of patches that are compared.

    Args:
        dataset: gives `images` (2, 3, S, S) and `patches` (4, 3, P, P), uint8, for (epoch, index): a box and its jitter, then a
            box and the one that it matches in a neighbour image.
        count: images drawn, evenly spaced over the listing; 0 draws none.
    """

    name = "patches"

    def rows(self, method: nn.Module, batch: dict[str, Any]) -> list[np.ndarray]:
        """For each image its views, then either pair of patches where there are any."""
        pairs = [batch["images"], *batch["patches"].split(2, dim=1)] if "patches" in batch else [batch["images"]]
        tiles = [pair.permute(0, 1, 3, 4, 2).numpy() for pair in pairs]
        return [_apart([[resize(tile) for tile in pair] for pair in row]) for row in zip(*tiles)]


def neighbour_sheet(images: ImageList, neighbours: np.ndarray, chosen: Iterable[int]) -> np.ndarray:
    """One row an image: itself, then its neighbours.

    Args:
        images: N of them.
        neighbours: (N, K) places in `images`, the nearest first; white where it is -1, grey where an image cannot be read.
        chosen: the rows.
    Returns:
        (H, W, 3) uint8.
    """
    rows = [
        _apart([[_tile(images, int(image))], [_tile(images, int(place)) for place in neighbours[image]]])
        for image in chosen
    ]
    return stack(rows, axis=0)


def proposal_sheet(images: ImageList, boxes: Ragged, chosen: Iterable[int]) -> np.ndarray:
    """One row an image: the photo, then its boxes (x, y, w, h) in pixels on the photo, the first on top."""
    rows = []
    for image in map(int, chosen):
        photo = _read(images, image)
        # A hundred thin outlines stand out against a dark photo alone.
        rows.append(stack([resize(photo), outline((_DARK * photo).astype(np.uint8), boxes[image], line=1)], axis=1))
    return stack(rows, axis=0)


def pair_sheet(images: ImageList, correspondence: Correspondence, chosen: Iterable[int]) -> np.ndarray:
    """One row an image: itself and its nearest neighbour with pairs, and the contents of the most similar of these pairs.

    Both boxes of a pair are outlined in one colour, which frames their contents too. A row without pairs is the photo alone.
    """
    ranks = {int(image): _first_rank(correspondence, int(image)) for image in chosen}
    longest = max(
        (len(correspondence.pairs_of(image, rank)) for image, rank in ranks.items() if rank is not None), default=0
    )
    rows = [_pair_row(images, correspondence, image, rank, min(longest, NUM_PAIRS)) for image, rank in ranks.items()]
    return stack(rows, axis=0)


def _first_rank(correspondence: Correspondence, image: int) -> int | None:
    """The nearest neighbour with pairs."""
    ranks = range(correspondence.neighbours.shape[1])
    return next((rank for rank in ranks if len(correspondence.pairs_of(image, rank))), None)


def _pair_row(
    images: ImageList, correspondence: Correspondence, image: int, rank: int | None, columns: int
) -> np.ndarray:
    photo = _read(images, image)
    if rank is None:
        return _apart([[resize(photo), _white()]] + [[_white(), _white()]] * columns)
    other = _read(images, int(correspondence.neighbours[image, rank]))
    pairs = correspondence.pairs_of(image, rank)[:columns]
    contents = [
        [_frame(_cut(photo, pair[:4]), number), _frame(_cut(other, pair[4:]), number)]
        for number, pair in enumerate(pairs)
    ]
    missing = [[_white(), _white()]] * (columns - len(pairs))
    return _apart([[outline(photo, pairs[:, :4]), outline(other, pairs[:, 4:])], *contents, *missing])


def outline(photo: np.ndarray, boxes: np.ndarray, *, line: int = _LINE) -> np.ndarray:
    """(TILE, TILE, 3) uint8: a photo (H, W, 3) with boxes (n, 4), each in a colour of its own, the first on top.

    A box that comes again is drawn within itself.
    """
    height, width, _ = photo.shape
    x, y, w, h = np.asarray(boxes, dtype=float).T
    corners = (TILE * np.stack([x / width, y / height, (x + w) / width, (y + h) / height], axis=1)).round().astype(int)
    picture = Image.fromarray(resize(photo))
    for number in reversed(range(len(corners))):
        inset = (line + 1) * int((corners[:number] == corners[number]).all(1).sum())
        _rectangle(ImageDraw.Draw(picture), tuple(corners[number].tolist()), number, line=line, inset=inset)
    return np.asarray(picture)


def _rectangle(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], number: int, *, line: int = _LINE, inset: int = 0
) -> None:
    x0, y0, x1, y1 = box
    x0, y0 = x0 + inset, y0 + inset
    x1, y1 = max(x1 - 1 - inset, x0), max(y1 - 1 - inset, y0)
    # A dark rim within a thick line, which in the photo's own colour would not be seen.
    if line > 1 and min(x1 - x0, y1 - y0) > 2 * line:
        draw.rectangle((x0 + line, y0 + line, x1 - line, y1 - line), outline="black")
    draw.rectangle((x0, y0, x1, y1), outline=tuple(int(255 * channel) for channel in colour(number)), width=line)


def _frame(tile: np.ndarray, number: int) -> np.ndarray:
    picture = Image.fromarray(tile)
    _rectangle(ImageDraw.Draw(picture), (0, 0, TILE, TILE), number)
    return np.asarray(picture)


def _cut(photo: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(TILE, TILE, 3): what is in a box (x, y, w, h)."""
    x, y, w, h = (int(number) for number in box)
    content = photo[y : y + h, x : x + w]
    # A photo that can no longer be read stands in by another size.
    return resize(np.ascontiguousarray(content) if content.size else photo)


def _tile(images: ImageList, place: int) -> np.ndarray:
    return _white() if place < 0 else resize(_read(images, place))


def _read(images: ImageList, index: int) -> np.ndarray:
    """(H, W, 3), grey where the image cannot be read."""
    try:
        return read_image(images.path(index))
    except UnreadableImage:
        return np.full((TILE, TILE, 3), _UNREADABLE, dtype=np.uint8)


def _white() -> np.ndarray:
    return np.full((TILE, TILE, 3), 255, dtype=np.uint8)


def _apart(groups: list[list[np.ndarray]]) -> np.ndarray:
    """Groups of tiles with a wider gap than within a group."""
    white = np.full((TILE, GAP, 3), 255, dtype=np.uint8)
    return stack([part for group in groups for part in (*group, white)][:-1], axis=1)
