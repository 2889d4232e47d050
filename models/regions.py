"""Regions from features: batched K-means, and superpixels merged by their cluster."""

from collections.abc import Callable

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
    pairwise: bool = True,
) -> Tensor:
    """Lloyd's algorithm on G groups of points at once.

    Args:
        points: (G, N, D) points, any scale; float32 or float64.
        valid: (G, N) bool; the others are neither drawn nor averaged, and their label means nothing.
        num_clusters: K. May exceed the number of points or of distinct points: clusters are then left empty.
        draws: (G, K) uniform numbers in [0, 1) for the K-means++ start. In float64, so are the sums over points that they are
            looked up in, as tens of thousands of points need.
        start: (G, K, D) centroids to begin with instead.
        max_iter: iterations at most. On the CPU the loop ends early where no label changes; on a GPU it never asks the host.
        pairwise: compute all inner products of points once, (G, N, N), and everything else from them, however long the points
            are: for some thousand points. False goes back to the points every time, and takes O(G N (K + D)) memory.
    Returns:
        (G, N) labels in [0, K). A cluster that loses its last point keeps its centroid.
    Source: R2O, section 3.2, with Arthur and Vassilvitskii (2007) for the start. Differs: the release divides by zero where a
    cluster is empty, whereupon every label becomes the same.
    """
    products = _Pairs(points) if pairwise else _Points(points)
    if start is None:
        anyone = valid.to(torch.promote_types(points.dtype, draws.dtype))
        similarity, norm = products.of_points(_plus_plus(products.distances(), anyone, num_clusters, draws))
    else:
        similarity, norm = _compare(start, points)
    labels = _nearest(similarity, norm)
    for _ in range(max_iter):
        similarity, norm = _move_centroids(products, labels, valid, similarity, norm)
        new_labels = _nearest(similarity, norm)
        if points.device.type == "cpu" and torch.equal(new_labels[valid], labels[valid]):
            break
        labels = new_labels
    return labels


# Squared distances (G, N) of all points from one of each group, whose indices (G, 1) it takes.
_Distances = Callable[[Tensor], Tensor]


class _Pairs:
    """What K-means asks of points, out of the products of all pairs: a row of them, or a mean of rows."""

    def __init__(self, points: Tensor):
        self._products = points @ points.transpose(1, 2)
        self._square = self._products.diagonal(dim1=1, dim2=2)

    def of_points(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Inner products of the points `index` (G, K) with every point (G, K, N), and their squared lengths (G, K)."""
        return _rows(self._products, index), self._square.gather(1, index)

    def of_means(self, share: Tensor) -> tuple[Tensor, Tensor]:
        """The same of weighted means of points; `share` (G, K, N) are the weights."""
        similarity = share @ self._products
        return similarity, (similarity * share).sum(-1)

    def distances(self) -> _Distances:
        square = self._square
        apart = square[:, :, None] + square[:, None, :] - 2 * self._products
        apart.masked_fill_(apart < _same(square)[..., None], 0)
        return lambda index: _rows(apart, index)[:, 0]


class _Points:
    """The same out of the points themselves."""

    def __init__(self, points: Tensor):
        self._points, self._square = points, points.square().sum(-1)

    def of_points(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return _compare(_rows(self._points, index), self._points)

    def of_means(self, share: Tensor) -> tuple[Tensor, Tensor]:
        return _compare(share @ self._points, self._points)

    def distances(self) -> _Distances:
        square, same = self._square, _same(self._square)

        def distances_from(index: Tensor) -> Tensor:
            similarity, norm = self.of_points(index)
            apart = norm + square - 2 * similarity[:, 0]
            return apart.masked_fill_(apart < same, 0)

        return distances_from


def _compare(centroids: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    return centroids @ points.transpose(1, 2), centroids.square().sum(-1)


def _rows(matrix: Tensor, index: Tensor) -> Tensor:
    """The rows `index` (G, K) of (G, N, C)."""
    return matrix.gather(1, index[..., None].expand(-1, -1, matrix.shape[2]))


def _same(square: Tensor) -> Tensor:
    """(G, 1) the squared distance below which points count as one: rounding must not leave a drawn point or its duplicates
    with a chance of being drawn again.
    """
    return 1e-6 * square.amax(1, keepdim=True)


def _nearest(similarity: Tensor, norm: Tensor) -> Tensor:
    # |x - c|^2 without |x|^2, which is the same for every centroid.
    return (norm[..., None] - 2 * similarity).argmin(1)


def _move_centroids(
    products: _Pairs | _Points, labels: Tensor, valid: Tensor, similarity: Tensor, norm: Tensor
) -> tuple[Tensor, Tensor]:
    """Inner products of the clusters' means with every point (G, K, N), and their squared lengths (G, K)."""
    clusters = torch.arange(norm.shape[1], device=labels.device)
    members = ((labels[:, None] == clusters[:, None]) & valid[:, None]).to(similarity.dtype)
    count = members.sum(-1)
    share = members.div_(count.clamp(min=1)[..., None])
    moved, moved_norm = products.of_means(share)
    empty = count == 0
    return torch.where(empty[..., None], similarity, moved), torch.where(empty, norm, moved_norm)


def _plus_plus(distances: _Distances, anyone: Tensor, num_clusters: int, draws: Tensor) -> Tensor:
    """(G, K) indices of points drawn with probability proportional to the squared distance to those drawn before.

    `anyone` (G, N) is 1 for the points that may be drawn, else 0; sums are of its type.
    """
    distance, drawable, chosen = anyone, anyone.cumsum(1), []
    for k in range(num_clusters):
        weights = distance.cumsum(1)
        # Where every point coincides with one drawn before, any valid point does.
        weights = torch.where(weights[:, -1:] > 0, weights, drawable)
        threshold = draws[:, k : k + 1].to(weights.dtype) * weights[:, -1:]
        index = torch.searchsorted(weights, threshold, right=True).clamp(max=weights.shape[1] - 1)
        chosen.append(index)
        row = distances(index)
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
    draws = draws.to(points.device, non_blocking=True)
    # Products of all pairs pay while a point has fewer others than numbers.
    options = {"num_clusters": num_clusters, "max_iter": max_iter, "pairwise": points.shape[1] <= D}
    labels = kmeans(points, valid, draws=draws, **options).view(-1, M)[:B]
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
