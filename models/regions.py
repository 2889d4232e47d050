"""Regions from features: batched K-means over superpixels, and superpixels merged by their cluster."""

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.byol import unit
from models.pooling import sample_labels, soft_masks


def kmeans(
    points: Tensor,
    valid: Tensor,
    *,
    num_clusters: int,
    draws: Tensor | None = None,
    start: Tensor | None = None,
    max_iter: int = 25,
) -> Tensor:
    """Lloyd's algorithm on G groups of points at once, by their inner products.

    Everything after the one product `points @ points.T` works on inner products: a K-means++ draw reads one row of it and an
    iteration multiplies it by the (K, N) matrix of memberships, however long the points are.

    Args:
        points: (G, N, D) points, any scale; float32 or float64.
        valid: (G, N) bool; the others are neither drawn nor averaged, and their label means nothing.
        num_clusters: K. May exceed the number of points or of distinct points: clusters are then left empty.
        draws: (G, K) uniform numbers in [0, 1) for the K-means++ start.
        start: (G, K, D) centroids to begin with instead.
        max_iter: iterations at most. On the CPU the loop ends early where no label changes; on a GPU it never asks the host.
    Returns:
        (G, N) labels in [0, K). A cluster that loses its last point keeps its centroid.
    Source: R2O, section 3.2, with Arthur and Vassilvitskii (2007) for the start. Differs: the release divides by zero where a
    cluster is empty, whereupon every label becomes the same.
    """
    products = points @ points.transpose(1, 2)
    if start is None:
        chosen = _plus_plus(products, valid, num_clusters, draws)
        similarity = products.gather(1, chosen[..., None].expand(-1, -1, products.shape[2]))
        norm = products.diagonal(dim1=1, dim2=2).gather(1, chosen)
    else:
        similarity, norm = start @ points.transpose(1, 2), start.square().sum(-1)
    labels = _nearest(similarity, norm)
    for _ in range(max_iter):
        similarity, norm = _move_centroids(products, labels, valid, similarity, norm)
        new_labels = _nearest(similarity, norm)
        if points.device.type == "cpu" and torch.equal(new_labels[valid], labels[valid]):
            break
        labels = new_labels
    return labels


def _nearest(similarity: Tensor, norm: Tensor) -> Tensor:
    # |x - c|^2 without |x|^2, which is the same for every centroid.
    return (norm[..., None] - 2 * similarity).argmin(1)


def _move_centroids(
    products: Tensor, labels: Tensor, valid: Tensor, similarity: Tensor, norm: Tensor
) -> tuple[Tensor, Tensor]:
    """Inner products of the clusters' means with every point (G, K, N), and their squared lengths (G, K)."""
    clusters = torch.arange(norm.shape[1], device=labels.device)
    members = ((labels[:, None] == clusters[:, None]) & valid[:, None]).to(products.dtype)
    count = members.sum(-1)
    share = members / count.clamp(min=1)[..., None]
    moved = share @ products
    empty = count == 0
    return torch.where(empty[..., None], similarity, moved), torch.where(empty, norm, (moved * share).sum(-1))


def _plus_plus(products: Tensor, valid: Tensor, num_clusters: int, draws: Tensor) -> Tensor:
    """(G, K) indices of points drawn with probability proportional to the squared distance to those drawn before."""
    square = products.diagonal(dim1=1, dim2=2)
    apart = square[:, :, None] + square[:, None, :] - 2 * products
    # Rounding must not leave a drawn point or its duplicates with a chance of being drawn again.
    apart = apart.masked_fill_(apart < 1e-6 * square.amax(1)[:, None, None], 0)
    anyone = valid.to(products.dtype)
    distance, drawable = anyone, anyone.cumsum(1)
    chosen = []
    for k in range(num_clusters):
        weights = distance.cumsum(1)
        # Where every point coincides with one drawn before, any valid point does.
        weights = torch.where(weights[:, -1:] > 0, weights, drawable)
        threshold = draws[:, k : k + 1].to(weights.dtype) * weights[:, -1:]
        index = torch.searchsorted(weights, threshold, right=True).clamp(max=weights.shape[1] - 1)
        chosen.append(index)
        row = apart.gather(1, index[..., None].expand(-1, -1, apart.shape[2]))[:, 0]
        distance = torch.minimum(distance, row) if k else row * anyone
    return torch.cat(chosen, dim=1)


def cluster_superpixels(
    features: Tensor, present: Tensor, *, num_clusters: int, seeds: Tensor, images_per_group: int, max_iter: int = 25
) -> Tensor:
    """Cluster the superpixels of each group of images together.

    Args:
        features: (B, M, D) pooled features of the superpixels, without gradient.
        present: (B, M) bool, the superpixels that an image has.
        num_clusters: K.
        seeds: (B,) int64 on the host; a group starts from its first image's. They belong to the images, so that neither
            the batch nor the number of processes changes what a group draws.
        images_per_group: consecutive images that are clustered together.
    Returns:
        (B, M) cluster of each superpixel, -1 where it is absent.
    Source: R2O, section 3.2. The release clusters the batch of a process together (32 images).
    """
    B, M, D = features.shape
    images_per_group = min(images_per_group, B)
    groups = -(-B // images_per_group)
    missing = groups * images_per_group - B
    points = F.pad(unit(features), (0, 0, 0, 0, 0, missing)).view(groups, images_per_group * M, D)
    valid = F.pad(present, (0, 0, 0, missing)).view(groups, images_per_group * M)
    draws = torch.stack([_uniform(seed, num_clusters) for seed in seeds[::images_per_group].tolist()])
    labels = kmeans(points, valid, num_clusters=num_clusters, draws=draws.to(points.device), max_iter=max_iter)
    labels = labels.view(-1, M)[:B]
    return torch.where(present, labels, -1)


def _uniform(seed: int, count: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


def merge_superpixels(
    superpixels: Tensor, clusters: Tensor, *, size: tuple[int, int], soft_labels: bool = False
) -> Tensor:
    """Regions: each pixel takes the cluster of its superpixel.

    Args:
        superpixels: (B, H, W) ids of superpixels.
        clusters: (B, M) cluster of each, -1 for none.
        size: (h, w) of the region map.
        soft_labels: average the cluster numbers of the superpixels that meet in a cell and cut off the fraction, as the release
            does; where clusters 1 and 5 meet, cells of cluster 3 appear.
    Returns:
        (B, h, w) int64 cluster ids, -1 where there is none.
    """
    if soft_labels:
        masks = soft_masks(superpixels, num_labels=clusters.shape[1], size=size)
        mixed = (masks * clusters.clamp(min=0)[..., None]).sum(1)
        # What rounding has left just below a whole number is that number.
        return (mixed + 1e-4).long().view(-1, *size)
    ids = sample_labels(superpixels, size=size).long()
    return clusters.gather(1, ids.flatten(1)).view(ids.shape)


def one_hot_regions(regions: Tensor, num_regions: int) -> Tensor:
    """(B, h, w) ids -> (B, num_regions, h, w) float32 masks; ids outside [0, num_regions) are in none."""
    ids = torch.arange(num_regions, device=regions.device)
    return (regions[:, None] == ids[:, None, None]).float()
