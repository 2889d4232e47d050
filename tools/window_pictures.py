"""Pictures of windows: which windows of one view a run compares with which places of the other."""

from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from models.windows import Match
from tools.pictures import GAP, TILE, ViewPictures, colour, resize, spread, stack
from utils.log import RunLog
from utils.method import Progress

SIDE = 3 * TILE // 2  # of one view in a sheet, in pixels: a number must fit into a window
_LINE = 2
_MAX_ALONG_AXIS = 4  # windows outlined
_DARK = 0.4  # of a view's brightness, where nothing is compared


class Boxes(NamedTuple):
    """Windows in one view, (x0, y0, x1, y1) in pixels of its picture."""

    compared: np.ndarray  # (K, 4) all that both views show
    outlined: np.ndarray  # (k, 4) some of them, which do not overlap


class WindowPictures(ViewPictures):
    """Draws both views of some images, and in them the windows that a method compares.

    What no compared window covers is dark. Of the windows, some that do not overlap are outlined, each in one colour and with
    one number in both views.

    Args:
        dataset: gives `images` (2, 3, S, S) uint8, `boxes` and `flips` for (epoch, index).
        count: images drawn, evenly spaced over the listing; 0 draws none.
    """

    name = "windows"

    def draw(self, method: nn.Module, epoch: int, progress: Progress, log: RunLog) -> None:
        """As `ViewPictures` does, where the method compares windows."""
        if method.windows:
            super().draw(method, epoch, progress, log)

    def rows(self, method: nn.Module, batch: dict[str, Any]) -> list[np.ndarray]:
        """For each kind of windows the first view, then the second."""
        matches = [method.match(batch, windows) for windows in method.windows]
        photos = batch["images"].permute(0, 1, 3, 4, 2).numpy()
        return [
            _beside([pair_of_views(*views, match, image) for match in matches]) for image, views in enumerate(photos)
        ]


def pair_of_views(first: np.ndarray, second: np.ndarray, match: Match, image: int) -> np.ndarray:
    """(SIDE, 2 SIDE + GAP, 3) uint8: both views (S, S, 3) of one image of a batch, and its windows."""
    n = len(match.spans)
    shown = match.shown[image].view(n, n)
    rows, columns = (torch.nonzero(shown.any(1 - axis)).flatten().numpy() for axis in (0, 1))
    drawn_rows, drawn_columns = (_apart(indices, match.spans) for indices in (rows, columns))
    views = [
        draw_windows(photo, Boxes(_boxes(down, across, rows, columns), _boxes(down, across, drawn_rows, drawn_columns)))
        for photo, down, across in (
            (first, match.spans, match.spans),
            (second, match.rows[image], match.columns[image]),
        )
    ]
    return stack(views, axis=1)


def _apart(indices: np.ndarray, spans: torch.Tensor) -> np.ndarray:
    """Of the windows along one axis, at most `_MAX_ALONG_AXIS` from the first to the last that do not overlap."""
    starts, ends = spans.unbind(-1)
    # Windows further on, the first begins where this one has ended, or a rounding error before.
    stride = int((starts < ends[0] - 1e-6).sum())
    number = min((len(indices) - 1) // stride + 1, _MAX_ALONG_AXIS)
    return indices[spread(number, len(indices))]


def _boxes(down: torch.Tensor, across: torch.Tensor, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(R * C, 4) pixels of SIDE: windows rows x columns, of which `down` and `across` (n, 2) are the spans in [0, 1]."""
    edges_down, edges_across = ((SIDE * spans).round().int().numpy() for spans in (down, across))
    # A far larger view shows a window in less than a pixel, which cannot be outlined.
    boxes = [
        (x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)) for y0, y1 in edges_down[rows] for x0, x1 in edges_across[columns]
    ]
    return np.array(boxes, dtype=int).reshape(-1, 4)


def draw_windows(photo: np.ndarray, boxes: Boxes) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8: a view (S, S, 3), dark outside of the compared windows, and outlines of some."""
    photo = resize(photo, SIDE)
    compared = np.zeros((SIDE, SIDE, 1), dtype=bool)
    for x0, y0, x1, y1 in boxes.compared:
        compared[y0:y1, x0:x1] = True
    picture = Image.fromarray(np.where(compared, photo, (_DARK * photo).astype(np.uint8)))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    for number, (x0, y0, x1, y1) in enumerate(boxes.outlined):
        paint = tuple(int(255 * channel) for channel in colour(number))
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=paint, width=_LINE)
        middle = ((x0 + x1) / 2, (y0 + y1) / 2)
        draw.text(middle, str(number + 1), fill="white", font=font, anchor="mm", stroke_width=2, stroke_fill="black")
    return np.asarray(picture)


def _beside(pairs: list[np.ndarray]) -> np.ndarray:
    """Pairs of views with a wider gap than within a pair."""
    white = np.full((SIDE, GAP, 3), 255, dtype=np.uint8)
    return stack([part for pair in pairs for part in (pair, white)][:-1], axis=1)
