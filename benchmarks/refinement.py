"""Refinement of superpixels to regions, given the features: this repository's against the plain form of the same computation.

    python -m benchmarks.refinement [--images 8] [--superpixels 100] [--clusters 128]

The plain form is what the published code does in effect: one-hot masks at full resolution, K-means that visits one cluster after
the other, masks of all superpixels resized again to draw the regions. Both cluster the same features; their random starts differ.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.compare import milliseconds
from models.pooling import pool_regions, soft_masks
from models.regions import cluster_superpixels, merge_superpixels

SIDE, GRID, REGIONS, CHANNELS = 224, 14, 56, 1024


def make_inputs(images: int, superpixels: int) -> tuple[Tensor, Tensor]:
    """Features with some structure, (B, D, 14, 14), and blocky label maps (B, 224, 224)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(images, CHANNELS, 4, 4, generator=generator)
    features = F.interpolate(coarse, GRID, mode="bilinear") + 0.5 * torch.randn(
        images, CHANNELS, GRID, GRID, generator=generator
    )
    side = round(superpixels**0.5)
    place = torch.arange(SIDE) * side // SIDE
    labels = (place[:, None] * side + place[None]).expand(images, -1, -1)
    return features.relu(), labels.to(torch.uint8).contiguous()


def ours(features: Tensor, labels: Tensor, superpixels: int, clusters: int) -> Tensor:
    masks = soft_masks(labels, num_labels=superpixels, size=(GRID, GRID))
    pooled = pool_regions(features, masks)
    found = cluster_superpixels(
        pooled, masks.sum(-1) > 0, num_clusters=clusters, seeds=torch.arange(len(labels)), images_per_group=len(labels)
    )
    return merge_superpixels(labels, found, size=(REGIONS, REGIONS))


def plain(features: Tensor, labels: Tensor, superpixels: int, clusters: int) -> Tensor:
    one_hot = F.one_hot(labels.long(), superpixels).permute(0, 3, 1, 2).float()
    masks = F.interpolate(one_hot, GRID, mode="bilinear").flatten(2)
    pooled = pool_regions(features, masks)
    points = F.normalize(pooled, dim=-1).flatten(0, 1)
    chosen = [0]
    for _ in range(clusters - 1):
        distance = torch.cdist(points, points[chosen]).min(1).values.square()
        chosen.append(int(torch.multinomial(distance + 1e-12, 1)))
    centroids = points[chosen].clone()
    previous = None
    for _ in range(200):
        found = torch.cdist(points, centroids).argmin(1)
        if previous is not None and torch.equal(found, previous):
            break
        previous = found
        for k in range(clusters):
            if (found == k).any():
                centroids[k] = points[found == k].mean(0)
    masks = F.interpolate(one_hot, REGIONS, mode="bilinear")
    return (masks * found.view(len(labels), superpixels, 1, 1)).sum(1).long()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--superpixels", type=int, default=100, help="a square number")
    parser.add_argument("--clusters", type=int, default=128)
    arguments = parser.parse_args(argv)
    superpixels = round(arguments.superpixels**0.5) ** 2
    features, labels = make_inputs(arguments.images, superpixels)
    times = [
        milliseconds(lambda: form(features, labels, superpixels, arguments.clusters), repeats)
        for form, repeats in ((ours, 9), (plain, 3))
    ]
    print(
        f"{arguments.images} images, {superpixels} superpixels, K = {arguments.clusters}, {torch.get_num_threads()} threads: "
        f"{times[0]:.1f} ms, plain form {times[1]:.0f} ms, ratio {times[1] / times[0]:.0f}"
    )


if __name__ == "__main__":
    main()
