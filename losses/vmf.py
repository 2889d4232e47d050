"""Von Mises-Fisher clustering: features on the unit sphere drawn to the mean direction of their cluster."""

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.byol import unit


def vmf_loss(
    features: Tensor, centroids: Tensor, labels: Tensor, *, temperature: float, attract: bool = True
) -> Tensor:
    """Cross-entropy of each cell's cluster, given how near the cell's feature is to every centroid.

    Args:
        features: (B, D, h, w), of any length; gradients flow here.
        centroids: (K, D), used as they are: unit vectors for cosines. One of zeros, an empty cluster's, takes no part.
        labels: (B, h * w) int64 in [0, K), the cluster that each cell belongs to.
        temperature: > 0; one over the concentration of the clusters, which is the same for all.
        attract: False takes the similarities with a minus sign, so that a step moves a feature away from its centroid.
    Returns:
        Scalar >= 0, the mean over cells, in float32 or better.
    Source: VMFClusterLoss of the released CYBORGS, one of its four terms. Differs: its sign is that of `attract=False`, and
    its centroids are the clusters' plain means.
    """
    with torch.autocast(features.device.type, enabled=False):
        cells = unit(features.flatten(2).transpose(1, 2)).flatten(0, 1)
        logits = cells @ centroids.to(cells.dtype).T / temperature
        logits = (logits if attract else -logits).masked_fill(~centroids.any(1), -torch.inf)
        return F.cross_entropy(logits, labels.flatten())


def matched_labels(labels: Tensor, centroids: Tensor, others: Tensor) -> Tensor:
    """Clusters of one view, each as the cluster of the other view that is nearest to it.

    Args:
        labels: (...) int64 in [0, K), clusters of one view.
        centroids: (K, D) of this view's clusters, of any length.
        others: (L, D) of the other view's; one of zeros is that of no cell and nearest to none.
    Returns:
        (...) int64 in [0, L), by the largest cosine; ties go to the lowest.
    Source: no paper. The released VMFClusterLoss takes cluster k of one view for cluster k of the other, though the two views
    are clustered apart and their numbers mean nothing to each other.
    """
    with torch.autocast(labels.device.type, enabled=False):
        cosine = unit(centroids) @ unit(others).T
    return cosine.masked_fill(~others.any(1), -torch.inf).argmax(1)[labels]
