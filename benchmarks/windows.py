"""ReSim's window losses: this repository's against the plain form of the same computation, in one run.

    python -m benchmarks.windows [--images 32] [--threads 2]

The plain form maps windows to the key view one by one, pools with weights over the whole map of each window (the published CUDA
kernel no longer builds), and holds all logits as a matrix. Both forms must agree before they are timed. Memory is the growth of
the process' peak; it needs Linux.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
import os
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.compare import report
from data.geometry import draw_crop
from losses.byol import unit
from losses.info_nce import info_nce
from models.windows import match_windows, neighbourhoods, pool_windows

SIDE, CHANNELS, TEMPERATURE = 224, 256, 0.2


class Level(NamedTuple):
    name: str
    cells: int
    size: int  # of a window, in pixels
    stride: int


LEVELS = (Level("C4", 14, size=48, stride=32), Level("C3", 28, size=32, stride=24))


def draw_boxes(images: int) -> Tensor:
    """(B, 2, 4) boxes of two views of photographs, as ReSim draws them."""
    rng = np.random.default_rng(0)
    return torch.tensor(
        [
            [
                draw_crop(rng, 375, 500, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), flip_probability=0.0).box
                for _ in range(2)
            ]
            for _ in range(images)
        ]
    )


def match(boxes: Tensor, level: Level) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Spans of the windows, (1, n, 2), and of their rows and columns in the key view, in cells; (B n n,) which it shows."""
    flips = torch.zeros(len(boxes), 2, dtype=torch.bool)
    spans, rows, columns, shown = match_windows(SIDE, boxes, flips, size=level.size, stride=level.stride)
    return (spans[None] * level.cells, rows * level.cells, columns * level.cells), shown.flatten()


def pool(queries: Tensor, keys: Tensor, spans: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """(B n n, D) windows of either map."""
    with torch.no_grad():
        key_windows = pool_windows(keys, rows, columns).flatten(0, 1)
    return pool_windows(queries, spans, spans).flatten(0, 1), key_windows


def contrast(windows: Tensor, key_windows: Tensor, keys: Tensor, shown: Tensor) -> Tensor:
    negatives = unit(neighbourhoods(keys))
    weight = shown / shown.sum()
    return info_nce(windows, unit(key_windows), negatives, temperature=TEMPERATURE, weight=weight).loss


def loss(queries: Tensor, keys: Tensor, boxes: Tensor, level: Level) -> Tensor:
    places, shown = match(boxes, level)
    return contrast(*pool(queries, keys, *places), keys, shown)


def plain_match(boxes: Tensor, level: Level) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """(B, n n, 4) boxes of windows in pixels of the query view, of the same in the key view, (B n n,) labels: 0, -1 if cut."""
    windows, mapped, labels = [], [], []
    for (qx0, qy0, qx1, qy1), (kx0, ky0, kx1, ky1) in boxes.tolist():
        for top in range(0, SIDE - level.size, level.stride):
            for left in range(0, SIDE - level.size, level.stride):
                windows.append((left, top, left + level.size, top + level.size))
                x0, x1 = ((qx0 + x / SIDE * (qx1 - qx0) - kx0) / (kx1 - kx0) * SIDE for x in windows[-1][::2])
                y0, y1 = ((qy0 + y / SIDE * (qy1 - qy0) - ky0) / (ky1 - ky0) * SIDE for y in windows[-1][1::2])
                mapped.append((x0, y0, x1, y1))
                labels.append(0 if x0 >= 0 and y0 >= 0 and x1 < SIDE and y1 < SIDE else -1)
    shape = len(boxes), -1, 4
    return (torch.tensor(windows).view(shape).float(), torch.tensor(mapped).view(shape)), torch.tensor(labels)


def plain_pool(queries: Tensor, keys: Tensor, query_boxes: Tensor, key_boxes: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        key_windows = plain_pool_view(keys, key_boxes)
    return plain_pool_view(queries, query_boxes), key_windows


def plain_pool_view(features: Tensor, boxes: Tensor) -> Tensor:
    """(B, D, h, w), (B, R, 4) boxes in pixels -> (B R, D): weights of every cell for each window, and their sums."""
    cells = torch.arange(features.shape[-1])

    def hats(start: Tensor, end: Tensor) -> Tensor:
        below, above = ((edge[..., None] - cells).clamp(-1, 1) for edge in (start, end))
        areas = [torch.where(x < 0, (x + 1) ** 2 / 2, 1 - (1 - x) ** 2 / 2) for x in (below, above)]
        return (areas[1] - areas[0]) / (end - start)[..., None]

    x0, y0, x1, y1 = (boxes * features.shape[-1] / SIDE).unbind(-1)
    weights = hats(y0, y1)[..., :, None] * hats(x0, x1)[..., None, :]
    return torch.einsum("brhw,bdhw->brd", weights, features).flatten(0, 1)


def plain_contrast(windows: Tensor, key_windows: Tensor, keys: Tensor, labels: Tensor) -> Tensor:
    negatives = F.normalize(F.avg_pool2d(keys, 3, stride=1), dim=1).permute(1, 0, 2, 3).flatten(1)
    windows, key_windows = F.normalize(windows, dim=1), F.normalize(key_windows, dim=1)
    own = torch.einsum("rd,rd->r", windows, key_windows)[:, None]
    logits = torch.cat([own, windows @ negatives], dim=1) / TEMPERATURE
    return F.cross_entropy(logits, labels, ignore_index=-1)


def plain_loss(queries: Tensor, keys: Tensor, boxes: Tensor, level: Level) -> Tensor:
    places, labels = plain_match(boxes, level)
    return plain_contrast(*plain_pool(queries, keys, *places), keys, labels)


def check(queries: Tensor, keys: Tensor, boxes: Tensor, level: Level) -> None:
    """Both forms agree, or nothing is timed."""
    losses = loss(queries, keys, boxes, level), plain_loss(queries, keys, boxes, level)
    assert torch.allclose(*losses, rtol=1e-5)
    ours, plain = (torch.autograd.grad(one, queries)[0] for one in losses)
    assert (ours - plain).abs().max() < 1e-3 * plain.abs().max()


def compare(queries: Tensor, keys: Tensor, boxes: Tensor, level: Level) -> None:
    (places, shown), (plain_places, labels) = match(boxes, level), plain_match(boxes, level)
    assert torch.equal(shown, labels == 0)
    windows, key_windows = (part.detach() for part in pool(queries, keys, *places))
    windows.requires_grad_()
    ones = torch.ones_like(windows)
    report(f"{level.name}, matching", lambda: match(boxes, level), lambda: plain_match(boxes, level))
    report(
        f"{level.name}, pooling {len(windows)} windows of either view and gradient",
        lambda: torch.autograd.grad(pool(queries, keys, *places)[0], queries, ones),
        lambda: torch.autograd.grad(plain_pool(queries, keys, *plain_places)[0], queries, ones),
    )
    report(
        f"{level.name}, InfoNCE against {len(boxes) * (level.cells - 2) ** 2} places and gradient",
        lambda: torch.autograd.grad(contrast(windows, key_windows, keys, shown), windows),
        lambda: torch.autograd.grad(plain_contrast(windows, key_windows, keys, labels), windows),
    )
    report(
        f"{level.name}, all of it",
        lambda: torch.autograd.grad(loss(queries, keys, boxes, level), queries),
        lambda: torch.autograd.grad(plain_loss(queries, keys, boxes, level), queries),
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads; load of the machine before: {os.getloadavg()[0]:.1f}")
    generator = torch.Generator().manual_seed(0)
    boxes = draw_boxes(arguments.images)
    for level in LEVELS:
        shape = arguments.images, CHANNELS, level.cells, level.cells
        queries, keys = (torch.randn(shape, generator=generator) for _ in range(2))
        queries.requires_grad_()
        check(queries, keys, boxes, level)
        compare(queries, keys, boxes, level)


if __name__ == "__main__":
    main()
