"""K-means in the published shape: group after group, and in a group cluster after cluster."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cluster(
    features: Tensor, present: Tensor, *, num_clusters: int, seeds: Tensor, images_per_group: int, max_iter: int = 25
) -> Tensor:
    """What `models.regions.cluster_superpixels` computes, from the same random numbers.

    Args:
        features: (B, M, D) of superpixels; present: (B, M) bool, which of them an image has.
        seeds: (B,) on the host; a group starts from its first image's.
    Returns:
        (B, M) clusters, -1 where a superpixel is absent.
    Source: R2O, section 3.2: the superpixels of a process' images, image after image, make one list of points.
    """
    labels = torch.full(present.shape, -1, device=features.device)
    for first in range(0, len(features), images_per_group):
        group = slice(first, first + images_per_group)
        images = zip(features[group], present[group])
        points = torch.cat([F.normalize(image[there], dim=-1) for image, there in images])
        draws = torch.rand(num_clusters, generator=torch.Generator().manual_seed(int(seeds[first])))
        labels[group][present[group]] = _lloyd(points, _plus_plus(points, draws), max_iter)
    return labels


def _plus_plus(points: Tensor, draws: Tensor) -> Tensor:
    """(K, D) points drawn with probability proportional to the squared distance to those drawn before."""
    distance, chosen = points.new_ones(len(points)), []
    for draw in draws.tolist():
        sums = distance.cumsum(0)
        chosen.append(min(int((sums <= draw * sums[-1]).sum()), len(points) - 1))
        apart = (points - points[chosen[-1]]).square().sum(-1)
        distance = torch.minimum(distance, apart) if len(chosen) > 1 else apart
    return points[chosen]


def _lloyd(points: Tensor, centroids: Tensor, max_iter: int) -> Tensor:
    labels = torch.cdist(points, centroids).argmin(1)
    for _ in range(max_iter):
        for k in range(len(centroids)):
            members = labels == k
            if members.any():
                centroids[k] = points[members].mean(0)
        moved = torch.cdist(points, centroids).argmin(1)
        if torch.equal(moved, labels):
            break
        labels = moved
    return labels
