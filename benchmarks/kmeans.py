"""K-means of superpixels' features: this repository's, all groups of images at once, against the published shape.

    python -m benchmarks.kmeans [--clusters 127] [--batch 32] [--points 100] [--sweep AXIS [VALUE ...]] [--json FILE]

The baseline makes one list of a group's points and visits one cluster after another. Both start from the same random numbers and
must find the same clusters (in float64, where rounding decides nothing) before they are timed in float32.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import sys

import torch
from torch import Tensor

from benchmarks.baselines import kmeans as baseline
from benchmarks.compare import compare
from benchmarks.report import Axis, Point, Report, describe, make_parser, points
from models.regions import cluster_superpixels
from utils.cli import shows_errors
from utils.errors import UserError

CHANNELS, IMAGES_PER_GROUP = 1024, 32
AXES = (
    Axis("clusters", 127, (4, 16, 64, 127), "K, which falls from 127 to 4 in a run of R2O"),
    Axis("batch", 32, (8, 16, 32, 64, 128), f"images, clustered in groups of {IMAGES_PER_GROUP}"),
    Axis("points", 100, (25, 49, 100, 196), "superpixels an image"),
)


def make_inputs(point: Point, device: torch.device) -> tuple[Tensor, Tensor]:
    """(B, M, D) features with some structure, after a ReLU, and (B, M) present: a tenth of the superpixels is not."""
    generator = torch.Generator().manual_seed(0)
    shape = point["batch"], point["points"]
    # Few directions in common: clusters that overlap, so that K-means goes on for as long as it does in training.
    latent = torch.randn(*shape, 16, generator=generator) @ torch.randn(16, CHANNELS, generator=generator) / 4
    features = latent + 0.5 * torch.randn(*shape, CHANNELS, generator=generator)
    present = torch.rand(shape, generator=generator).argsort(1) >= point["points"] // 10
    return features.relu().to(device), present.to(device)


def check_clusters(point: Point, num_points: int) -> None:
    """Raises UserError where a group has fewer points: which of two equal clusters a point is in would be rounding's choice."""
    if point["clusters"] > num_points:
        raise UserError(f"--clusters {point['clusters']}: {describe(point)} makes a group of {num_points} points only")


def measure(report: Report, point: Point) -> None:
    features, present = make_inputs(point, report.device)
    options = {
        "num_clusters": point["clusters"],
        "seeds": torch.arange(point["batch"]),
        "images_per_group": IMAGES_PER_GROUP,
    }
    exact = features.double()
    assert torch.equal(cluster_superpixels(exact, present, **options), baseline.cluster(exact, present, **options))
    del exact
    compare(
        report,
        "K-means",
        lambda: cluster_superpixels(features, present, **options),
        lambda: baseline.cluster(features, present, **options),
        point=point,
    )


@shows_errors
def main(argv: list[str] | None = None) -> int:
    arguments = make_parser(__doc__, AXES).parse_args(argv)
    places = list(points(arguments, AXES))
    for point in places:
        images = (point["batch"] - 1) % IMAGES_PER_GROUP + 1
        check_clusters(point, images * (point["points"] - point["points"] // 10))
    with Report("kmeans", arguments) as report:
        for point in places:
            measure(report, point)
    return 0


if __name__ == "__main__":
    sys.exit(main())
