"""ReSim's window losses: this repository's against the published shape of the same computation, in one run.

    python -m benchmarks.windows [--batch 32] [--size 224] [--sweep AXIS [VALUE ...]] [--json FILE]

The baseline maps windows to the key view one by one, pools with weights over the whole map of each window (the published CUDA
kernel no longer builds), and holds all logits as a matrix. Both forms must agree before they are timed.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import sys
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.baselines import windows as baseline
from benchmarks.compare import compare
from benchmarks.report import Axis, Point, Report, check_sizes, make_parser, points
from data.geometry import draw_crop
from losses.byol import unit
from losses.info_nce import info_nce
from models.windows import match_windows, neighbourhoods, pool_windows
from utils.cli import shows_errors

CHANNELS, TEMPERATURE = 256, 0.2
AXES = (
    Axis("batch", 32, (4, 8, 16, 32, 64), "images of one process"),
    Axis("size", 224, (96, 160, 224, 320), "of a view, in pixels"),
)


class Level(NamedTuple):
    """A map of CELLS x CELLS and its windows, in pixels of a view of SIDE."""

    name: str
    side: int
    cells: int
    size: int
    stride: int


def make_levels(side: int) -> tuple[Level, Level]:
    """C4 and C3, with the published windows."""
    return Level("C4", side, side // 16, size=48, stride=32), Level("C3", side, side // 8, size=32, stride=24)


def draw_boxes(images: int) -> Tensor:
    """(B, 2, 4) boxes of two views of photographs, as ReSim draws them."""
    # The first image's views share windows, so that a batch of one has something to compare.
    rng = np.random.default_rng(1)
    options = {"scale": (0.2, 1.0), "ratio": (3 / 4, 4 / 3), "flip_probability": 0.0}
    boxes = np.array([[draw_crop(rng, 375, 500, **options).box for _ in range(2)] for _ in range(images)])
    # Borders are whole pixels, and rounding would decide where a window ends at one.
    return torch.from_numpy(boxes + rng.uniform(0, 1e-4, boxes.shape)).float()


def match(boxes: Tensor, level: Level) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Spans of the windows, (1, n, 2), and of their rows and columns in the key view, in cells; (B n n,) which it shows."""
    flips = torch.zeros(len(boxes), 2, dtype=torch.bool, device=boxes.device)
    spans, rows, columns, shown = match_windows(level.side, boxes, flips, size=level.size, stride=level.stride)
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


def baseline_match(boxes: Tensor, level: Level) -> tuple[tuple[Tensor, Tensor], Tensor]:
    return baseline.match(boxes, side=level.side, size=level.size, stride=level.stride)


def baseline_loss(queries: Tensor, keys: Tensor, boxes: Tensor, level: Level) -> Tensor:
    places, labels = baseline_match(boxes, level)
    windows = baseline.pool(queries, keys, *places, side=level.side)
    return baseline.contrast(*windows, keys, labels, temperature=TEMPERATURE)


def check(queries: Tensor, keys: Tensor, boxes: Tensor, level: Level) -> None:
    """Both forms agree, or nothing is timed."""
    assert torch.equal(match(boxes, level)[1], baseline_match(boxes, level)[1] == 0)
    losses = loss(queries, keys, boxes, level), baseline_loss(queries, keys, boxes, level)
    assert torch.allclose(*losses, rtol=1e-5)
    ours, plain = (torch.autograd.grad(one, queries)[0] for one in losses)
    assert (ours - plain).abs().max() < 1e-3 * plain.abs().max()


def measure(report: Report, point: Point, level: Level) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = point["batch"], CHANNELS, level.cells, level.cells
    queries, keys = (torch.randn(shape, generator=generator).to(report.device) for _ in range(2))
    queries.requires_grad_()
    boxes = draw_boxes(point["batch"]).to(report.device)
    check(queries, keys, boxes, level)
    (places, shown), (their_places, labels) = match(boxes, level), baseline_match(boxes, level)
    windows, key_windows = (part.detach() for part in pool(queries, keys, *places))
    windows.requires_grad_()
    ones = torch.ones_like(windows)
    forms = {
        "matching": (lambda: match(boxes, level), lambda: baseline_match(boxes, level)),
        "pooling and gradient": (
            lambda: torch.autograd.grad(pool(queries, keys, *places)[0], queries, ones),
            lambda: torch.autograd.grad(baseline.pool(queries, keys, *their_places, side=level.side)[0], queries, ones),
        ),
        "InfoNCE and gradient": (
            lambda: torch.autograd.grad(contrast(windows, key_windows, keys, shown), windows),
            lambda: torch.autograd.grad(
                baseline.contrast(windows, key_windows, keys, labels, temperature=TEMPERATURE), windows
            ),
        ),
        "all of it": (
            lambda: torch.autograd.grad(loss(queries, keys, boxes, level), queries),
            lambda: torch.autograd.grad(baseline_loss(queries, keys, boxes, level), queries),
        ),
    }
    for what, pair in forms.items():
        compare(report, f"{level.name}, {what}", *pair, point=point)


@shows_errors
def main(argv: list[str] | None = None) -> int:
    arguments = make_parser(__doc__, AXES).parse_args(argv)
    places = list(points(arguments, AXES))
    check_sizes(places, 16)
    with Report("windows", arguments) as report:
        for point in places:
            for level in make_levels(point["size"]):
                measure(report, point, level)
    return 0


if __name__ == "__main__":
    sys.exit(main())
