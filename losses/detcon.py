"""DetCon's contrastive loss between regions of two views, against the regions of all images."""

import torch
from torch import Tensor

from losses.byol import unit
from losses.info_nce import log_sum_exp


def detcon_loss(
    prediction: Tensor,
    targets: Tensor,
    ids: Tensor,
    target_ids: Tensor,
    *,
    temperature: float,
    offset: int = 0,
    local_negatives: bool = True,
) -> Tensor:
    """Cross-entropy of each region's prediction against the same region in the other view.

    A region's positives are the regions with its id in the other view of its image, which share the label equally. Its
    negatives are the regions of all images in both views, but for those that are itself: its image's regions with its id
    in its own view.

    Args:
        prediction: (B, V, M, D) predictions of this process, of any length; gradients flow here.
        targets: (G, V, M, D) unit vectors, the projections of all processes' images in the order of processes;
            gradients flow here where they require it (DetCon-S).
        ids: (B, V, M) ids of the predicted regions; only equality within an image matters.
        target_ids: (B, V, M) ids of the regions of this process' own targets; `ids` where one draw serves both.
        temperature: > 0.
        offset: the row of `targets` where this process' images begin.
        local_negatives: False leaves out all other regions of a region's own image, in both views: only its positives stay.
    Returns:
        Scalar >= 0: the sum over views of the mean over regions. A region weighs 1 / (number of regions of its view with
        its id), and 0 where the other view does not show it; it is counted in the mean all the same. Exactly 0, with zero
        gradient, where no region is matched.
    Source: DetCon, equation 3, with the weights of DeepMind's byol_nce_detcon and the released DetconBInfoNCECriterion.
    Differs: works for any batch and without a process group; for more than two views all others hold positives.

    Memory, at 4,096 images of 2 x 16 regions over 128 processes: the gathered targets are 131,072 x 256 float32, 134 MB.
    A process' 1,024 rows of logits would be 537 MB, and as much again for their softmax, its logarithm and gradients;
    `log_sum_exp` holds 128 rows at a time, 67 MB, and keeps 1,024 x 256 for the gradient, 1 MB. DetCon-S adds the gradient of
    the targets, 134 MB, and the copy of it that is summed over processes, as much again.
    """
    B, V, M, _ = prediction.shape
    assert offset + B <= len(targets), "the targets hold this process' images"
    queries, own = unit(prediction).flatten(1, 2), targets[offset : offset + B].flatten(1, 2)
    pairs = _pairs(ids, target_ids, local_negatives=local_negatives)
    # An image's regions of all views in a row, against the same of its targets.
    positive, left_out = (marks.flatten(3).flatten(1, 2) for marks in pairs)
    num_positives = positive.sum(2)
    label = positive.to(own.dtype) / num_positives.clamp(min=1)[..., None]
    with torch.autocast(queries.device.type, enabled=False):
        similarity = (queries * (label @ own)).sum(-1) / temperature
    place = torch.arange(B * V * M, device=ids.device).view(B, 1, V * M) + offset * V * M
    log_denominator = log_sum_exp(
        queries.flatten(0, 1),
        targets.flatten(0, 2),
        temperature=temperature,
        excluded_columns=place.expand_as(left_out).flatten(0, 1),
        excluded=left_out.flatten(0, 1),
    ).view(B, V * M)
    # A region's labels sum to one, so that its cross-entropy needs no logarithm but this one.
    cross_entropy = log_denominator - similarity
    copies = (ids[..., None] == ids[..., None, :]).sum(-1).flatten(1)
    weight = (num_positives > 0).to(queries.dtype) / copies
    return (weight * cross_entropy).sum() / (B * M)


def matched_share(ids: Tensor, target_ids: Tensor) -> Tensor:
    """Share of the regions (B, V, M) that another view of their image shows too: scalar in [0, 1]."""
    positive, _ = _pairs(ids, target_ids, local_negatives=True)
    return positive.any(-1).any(-1).float().mean()


def _pairs(ids: Tensor, target_ids: Tensor, *, local_negatives: bool) -> tuple[Tensor, Tensor]:
    """Which targets of its image are a region's positives, and which are left out: each (B, V, M, V, M) bool."""
    V = ids.shape[1]
    same_id = ids[..., None, None] == target_ids[:, None, None]
    same_view = torch.eye(V, dtype=torch.bool, device=ids.device)[:, None, :, None]
    positive = same_id & ~same_view
    return positive, same_id & same_view if local_negatives else ~positive
