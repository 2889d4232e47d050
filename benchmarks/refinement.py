"""Refinement of superpixels to regions, given the features: this repository's against the published shape of the computation.

    python -m benchmarks.refinement [--batch 8] [--clusters 127] [--size 224] [--superpixels 100] [--sweep AXIS [VALUE ...]]

The baseline makes one-hot masks at full resolution, clusters with K-means that visits one cluster after another, and resizes the
masks of all superpixels again to draw the regions. Both start from the same random numbers and must find the same regions (in
float64, where rounding decides nothing) before they are timed in float32.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.baselines.refinement import refine as baseline
from benchmarks.compare import compare
from benchmarks.kmeans import check_clusters
from benchmarks.report import Axis, Point, Report, check_sizes, make_parser, points
from models.pooling import pool_regions, soft_masks
from models.regions import cluster_superpixels, merge_superpixels
from utils.cli import positive, shows_errors

CHANNELS, STRIDE, CELL = 1024, 16, 4
AXES = (
    Axis("batch", 8, (2, 4, 8, 16, 32), "images, clustered together"),
    Axis("clusters", 127, (4, 16, 64, 127), "K, which falls from 127 to 4 in a run of R2O"),
    Axis("size", 224, (96, 160, 224, 320, 448), "of an image, in pixels"),
)


def make_inputs(point: Point, superpixels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Features with some structure, (B, D, S / 16, S / 16), and label maps (B, S, S) of as many blocks as superpixels."""
    generator = torch.Generator().manual_seed(0)
    batch, size = point["batch"], point["size"]
    grid = size // STRIDE
    coarse = torch.randn(batch, CHANNELS, 4, 4, generator=generator)
    own = torch.randn(batch, CHANNELS, grid, grid, generator=generator)
    features = F.interpolate(coarse, grid, mode="bilinear") + 0.5 * own
    side, cells = round(superpixels**0.5), size // CELL
    # Borders lie between the cells of the region map: where superpixels meet in one, the published code averages their clusters.
    place = (torch.arange(cells) * side // cells).repeat_interleave(CELL)
    labels = (place[:, None] * side + place[None]).expand(batch, -1, -1)
    dtype = torch.uint8 if superpixels <= 256 else torch.int32
    return features.relu().to(device), labels.to(dtype).contiguous().to(device)


def ours(
    features: Tensor, labels: Tensor, *, superpixels: int, clusters: int, seeds: Tensor, size: tuple[int, int]
) -> Tensor:
    masks = soft_masks(labels, num_labels=superpixels, size=features.shape[-2:])
    pooled = pool_regions(features, masks.to(features.dtype))
    options = {"num_clusters": clusters, "seeds": seeds, "images_per_group": len(labels)}
    return merge_superpixels(labels, cluster_superpixels(pooled, masks.sum(-1) > 0, **options), size=size)


def measure(report: Report, point: Point, superpixels: int) -> None:
    features, labels = make_inputs(point, superpixels, report.device)
    options = {
        "superpixels": superpixels,
        "clusters": point["clusters"],
        "seeds": torch.arange(point["batch"]),
        "size": (point["size"] // CELL,) * 2,
    }
    exact = features.double()
    assert torch.equal(ours(exact, labels, **options), baseline(exact, labels, **options))
    del exact
    compare(
        report,
        f"refinement of {superpixels} superpixels",
        lambda: ours(features, labels, **options),
        lambda: baseline(features, labels, **options),
        point=point,
    )


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__, AXES)
    parser.add_argument("--superpixels", type=positive, default=100, help="an image; a square number")
    arguments = parser.parse_args(argv)
    superpixels = round(arguments.superpixels**0.5) ** 2
    places = list(points(arguments, AXES))
    check_sizes(places, STRIDE)
    for point in places:
        check_clusters(point, point["batch"] * superpixels)
    with Report("refinement", arguments) as report:
        for point in places:
            measure(report, point, superpixels)
    return 0


if __name__ == "__main__":
    sys.exit(main())
