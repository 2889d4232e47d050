"""Refinement of superpixels to regions in the published shape: one-hot masks at full resolution, resized twice."""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.baselines.kmeans import cluster


def refine(
    features: Tensor, labels: Tensor, *, superpixels: int, clusters: int, seeds: Tensor, size: tuple[int, int]
) -> Tensor:
    """Regions (B, h, w) of `size`, numbered by cluster, from features (B, D, H, W) and superpixels (B, S, S).

    Source: R2O, section 3.2. All images are clustered together; cluster numbers are averaged where superpixels meet in a cell.
    """
    shape = len(labels), superpixels, *labels.shape[1:]
    one_hot = features.new_zeros(shape).scatter_(1, labels[:, None].long(), 1.0)
    masks = F.interpolate(one_hot, features.shape[-2:], mode="bilinear").flatten(2)
    area = masks.sum(-1, keepdim=True)
    pooled = torch.einsum("bmp,bdp->bmd", masks / area.clamp(min=1), features.flatten(2))
    present = area[..., 0] > 0
    found = cluster(pooled, present, num_clusters=clusters, seeds=seeds, images_per_group=len(labels))
    masks = F.interpolate(one_hot, size, mode="bilinear")
    return (masks * found[..., None, None]).sum(1).long()
