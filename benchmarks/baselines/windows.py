"""ReSim's window losses in the published shape: windows mapped one by one, pooled by weights over the whole map, all logits."""

import torch
import torch.nn.functional as F
from torch import Tensor


def match(boxes: Tensor, *, side: int, size: int, stride: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Windows of the query views, and where the key views show them.

    Args:
        boxes: (B, 2, 4) of both views in their image; no view is mirrored.
        side: of the views, in pixels; size, stride: of the windows, in pixels.
    Returns:
        (B, n n, 4) boxes in pixels of the query view and (B, n n, 4) of the key view, (x0, y0, x1, y1); and (B n n,) labels for
        the cross-entropy, 0, or -1 where the key view does not show the window whole.
    """
    windows, mapped, labels = [], [], []
    for (qx0, qy0, qx1, qy1), (kx0, ky0, kx1, ky1) in boxes.tolist():
        for top in range(0, side - size, stride):
            for left in range(0, side - size, stride):
                windows.append((left, top, left + size, top + size))
                x0, x1 = ((qx0 + x / side * (qx1 - qx0) - kx0) / (kx1 - kx0) * side for x in windows[-1][::2])
                y0, y1 = ((qy0 + y / side * (qy1 - qy0) - ky0) / (ky1 - ky0) * side for y in windows[-1][1::2])
                mapped.append((x0, y0, x1, y1))
                labels.append(0 if x0 >= 0 and y0 >= 0 and x1 < side and y1 < side else -1)
    places = [torch.tensor(one, device=boxes.device).view(len(boxes), -1, 4).to(boxes) for one in (windows, mapped)]
    return (places[0], places[1]), torch.tensor(labels, device=boxes.device)


def pool(queries: Tensor, keys: Tensor, query_boxes: Tensor, key_boxes: Tensor, *, side: int) -> tuple[Tensor, Tensor]:
    """(B n n, D) windows of either map; boxes are in pixels of a view of `side`."""
    with torch.no_grad():
        key_windows = _pool_view(keys, key_boxes, side)
    return _pool_view(queries, query_boxes, side), key_windows


def _pool_view(features: Tensor, boxes: Tensor, side: int) -> Tensor:
    """(B, D, h, w), (B, R, 4) -> (B R, D): weights of every cell for each window, and their sums."""
    cells = torch.arange(features.shape[-1], device=features.device)

    def hats(start: Tensor, end: Tensor) -> Tensor:
        below, above = ((edge[..., None] - cells).clamp(-1, 1) for edge in (start, end))
        areas = [torch.where(x < 0, (x + 1) ** 2 / 2, 1 - (1 - x) ** 2 / 2) for x in (below, above)]
        return (areas[1] - areas[0]) / (end - start)[..., None]

    x0, y0, x1, y1 = (boxes * features.shape[-1] / side).unbind(-1)
    weights = hats(y0, y1)[..., :, None] * hats(x0, x1)[..., None, :]
    return torch.einsum("brhw,bdhw->brd", weights, features).flatten(0, 1)


def contrast(windows: Tensor, key_windows: Tensor, keys: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy over each window's own key and the 3 x 3 means of all key maps."""
    negatives = F.normalize(F.avg_pool2d(keys, 3, stride=1), dim=1).permute(1, 0, 2, 3).flatten(1)
    windows, key_windows = F.normalize(windows, dim=1), F.normalize(key_windows, dim=1)
    own = torch.einsum("rd,rd->r", windows, key_windows)[:, None]
    logits = torch.cat([own, windows @ negatives], dim=1) / temperature
    return F.cross_entropy(logits, labels, ignore_index=-1)
