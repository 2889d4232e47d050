"""Bootstrap losses: make the online prediction of one view point where the target projection of the other does."""

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_byol_loss(
    prediction: Tensor, target: Tensor, weight: Tensor, *, total_weight: Tensor | None = None
) -> Tensor:
    """Weighted mean of squared distances between unit vectors.

    Args:
        prediction: (N, M, D) online predictions; gradients flow here.
        target: (N, M, D) target projections of the other view; detached by the caller.
        weight: (N, M), >= 0; zero drops a region, e.g. one that the crop cut away.
        total_weight: what the weighted sum is divided by; by default the sum of `weight`. Across processes: the sum over all
            of them divided by their number, so that averaged gradients equal those of one process with the whole batch.
    Returns:
        Scalar; in [0, 4] with the default total; exactly 0, with zero gradient, where every weight is zero.
    Source: R2O, equation 4; agrees with the released loss. Differs: the released code raises where no region is left.
    """
    distance = (unit(prediction) - unit(target)).square().sum(-1)
    total = weight.sum() if total_weight is None else total_weight
    # Dividing by one instead of zero keeps an empty batch attached to the graph, so that DDP's reducer does not wait for it.
    return (distance * weight).sum() / torch.where(total > 0, total, torch.ones_like(total))


def region_weight(areas_1: Tensor, areas_2: Tensor, *, overlap_indicator: bool, by_area: bool) -> Tensor:
    """How much each region counts.

    Args:
        areas_1, areas_2: (B, M) cells that a region covers in either view (sum of its pooling mask), >= 0.
        overlap_indicator: drop regions that are missing from either view.
        by_area: weigh a region with the mean of its two areas instead of 1.
    Returns:
        (B, M) weights, no gradient.
    Source: the released trainer, keys data.overlap_indicator and data.weight; 1e-3 of a cell counts as missing.
    """
    weight = (areas_1 + areas_2) / 2 if by_area else torch.ones_like(areas_1)
    return weight * overlap(areas_1, areas_2) if overlap_indicator else weight


def overlap(areas_1: Tensor, areas_2: Tensor) -> Tensor:
    """(B, M) 1.0 where both views show the region (more than a thousandth of a cell), else 0.0."""
    return ((areas_1 > 1e-3) & (areas_2 > 1e-3)).to(areas_1.dtype)


def unit(x: Tensor) -> Tensor:
    """Rows scaled to length one, in float32 or better whatever came in; a zero row stays zero."""
    return F.normalize(x if x.dtype == torch.float64 else x.float(), dim=-1)
