"""Sliding windows: where those of one view lie in another, and the feature in each, by two matrix products.

Windows are rows x columns of a grid, and so are the same places in the other view; so everything here is a span along one
axis: (..., n, 2), its start and its end in [0, 1] of the view.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Match(NamedTuple):
    """Windows of the first view, and where the second shows them: spans in [0, 1] of a view, along either axis."""

    spans: Tensor  # (n, 2), rows and columns alike
    rows: Tensor  # (B, n, 2) in the second view
    columns: Tensor  # (B, n, 2)
    shown: Tensor  # (B, n * n) bool, whether the second view shows a window whole


def match_windows(side: int, boxes: Tensor, flips: Tensor, *, size: int, stride: int) -> Match:
    """The windows of first views in second ones, from the views' boxes alone; see `window_spans` and `map_spans`."""
    spans = window_spans(side, size=size, stride=stride, device=boxes.device, dtype=boxes.dtype)
    rows, columns = map_spans(spans, boxes, flips)
    shown = inside(rows)[:, :, None] & inside(columns)[:, None, :]
    return Match(spans, rows, columns, shown.flatten(1))


def window_spans(
    side: int, *, size: int, stride: int, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Windows along one axis of a view.

    Args:
        side: of the view, in pixels; size, stride: of the windows, in pixels.
    Returns:
        (n, 2) spans in [0, 1]: those that end before the view's last pixel does, as released (6 of 48 px with stride 32 and
        8 of 32 px with stride 24 in 224 px).
    Raises:
        ValueError: where there are none.
    Source: ReSim, section 3.1; the released anchor_mapping.
    """
    if size >= side:
        raise ValueError(f"windows of {size} px do not slide over a view of {side} px: make them smaller")
    starts = torch.arange(0, side - size, stride, device=device, dtype=dtype)
    return torch.stack([starts, starts + size], dim=-1) / side


def map_spans(spans: Tensor, boxes: Tensor, flips: Tensor) -> tuple[Tensor, Tensor]:
    """Where the first view's windows lie in the second view.

    Args:
        spans: (n, 2) along either axis of the first view.
        boxes: (B, 2, 4) of both views in their image, (x0, y0, x1, y1) in [0, 1].
        flips: (B, 2) bool, whether a view is mirrored left to right.
    Returns:
        (B, n, 2) spans of the windows' rows in the second view, and (B, n, 2) of their columns; outside of [0, 1] where the
        second view does not show them.
    Source: ReSim, section 3.1. Differs: views may be mirrored differently; the release mirrors both or none.
    """
    left, top, right, bottom = boxes.unbind(-1)
    rows = _to_other_view(spans, top, bottom)
    # A mirrored view is one whose left border lies to the right.
    columns = _to_other_view(spans, torch.where(flips, right, left), torch.where(flips, left, right))
    return rows, columns


def _to_other_view(spans: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Spans (n, 2) of the first view in the second; `first` and `last`: (B, 2) borders of both views in the image."""
    start, length = first[:, :, None, None], (last - first)[:, :, None, None]
    in_image = start[:, 0] + spans * length[:, 0]
    mapped = (in_image - start[:, 1]) / length[:, 1]
    return torch.stack([mapped.amin(-1), mapped.amax(-1)], dim=-1)


def inside(spans: Tensor) -> Tensor:
    """(..., n, 2) -> (..., n) bool: whether a view shows the span whole; it must end before the view does, as released."""
    return (spans[..., 0] >= 0) & (spans[..., 1] < 1)


def pool_windows(features: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Precise RoI pooling to 1 x 1 of the windows rows x columns.

    Args:
        features: (N, D, h, w); gradients flow here.
        rows: (N, R, 2) or (1, R, 2) spans in cells of the features, columns: (N, C, 2) or (1, C, 2). Cell k's centre lies at k,
            where the k-th output of a ResNet's padded convolutions sees the pixel k x stride.
    Returns:
        (N, R * C, D), in float32 or better: the mean over the window of the bilinearly interpolated features, which are zero
        outside of the map. Empty and inverted windows give zero.
    Source: Precise RoI Pooling (Jiang et al., ECCV 2018), equation 2. The integral of a bilinear interpolation over a box is
    separable, so it is w_y F w_x / area, with w the integrals of the hat function over the box's extent in each axis.
    """
    N, D, h, w = features.shape
    down, across = (_mean_hats(spans, length).to(_wide(features)) for spans, length in ((rows, h), (columns, w)))
    with torch.autocast(features.device.type, enabled=False):
        # Channels last, so that either product is as wide as it can be.
        maps = features.permute(0, 2, 3, 1).to(down.dtype)
        pooled = (down @ maps.flatten(2)).unflatten(2, (w, D))
        return (across[:, None] @ pooled).flatten(1, 2)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _mean_hats(spans: Tensor, length: int) -> Tensor:
    """(N, n, 2) spans in cells -> (N, n, length): the mean over a span of each cell's hat function, max(0, 1 - |x - k|)."""
    cells = torch.arange(length, device=spans.device, dtype=spans.dtype)
    # The hat's integral from its left end up to x.
    x = (spans[..., None] - cells).clamp(-1, 1)
    integral = 0.5 + x - 0.5 * x * x.abs()
    extent = (spans[..., 1] - spans[..., 0])[..., None]
    return torch.where(extent > 0, (integral[..., 1, :] - integral[..., 0, :]) / extent, 0)


def neighbourhoods(features: Tensor, *, size: int = 3) -> Tensor:
    """(N, D, h, w) -> (N (h - size + 1) (w - size + 1), D) in float32 or better: means of size x size cells, all places.

    Source: the dense negatives of the released ReSim.
    """
    means = F.avg_pool2d(features.to(_wide(features)), size, stride=1)
    return means.permute(0, 2, 3, 1).flatten(0, 2)
