"""DetCon's masks and loss in the published shape: one-hot maps of all ids, and all logits and labels as matrices."""

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.byol import unit


def majority_labels(labels: Tensor, *, num_labels: int, size: tuple[int, int]) -> Tensor:
    """(N, H, W) ids -> (N, h * w): the id that most pixels of a cell have, by adaptive pooling of `num_labels` maps."""
    shape = len(labels), num_labels, *labels.shape[1:]
    one_hot = torch.zeros(shape, device=labels.device).scatter_(1, labels[:, None].long(), 1.0)
    return F.adaptive_avg_pool2d(one_hot, size).flatten(2).argmax(1)


def loss(prediction: Tensor, targets: Tensor, ids: Tensor, *, temperature: float, offset: int) -> Tensor:
    """What `losses.detcon.detcon_loss` computes where one draw of `ids` (B, V, M) serves predictions and targets."""
    B, V, M, _ = prediction.shape
    logits = unit(prediction).flatten(0, 2) @ targets.flatten(0, 2).T / temperature
    own = slice(offset * V * M, (offset + B) * V * M)
    image = torch.arange(B, device=ids.device).repeat_interleave(V * M)
    view = torch.arange(V, device=ids.device).repeat_interleave(M).repeat(B)
    region = ids.flatten()
    same = (image[:, None] == image) & (region[:, None] == region)
    same_view = view[:, None] == view
    labels = torch.zeros_like(logits)
    labels[:, own] = (same & ~same_view).float()
    left_out = torch.zeros_like(logits)
    left_out[:, own] = (same & same_view).float()
    log_softmax = (logits - 1e9 * left_out).log_softmax(1)
    num_positives = labels.sum(1)
    weight = (num_positives > 0) / (same & same_view).sum(1)
    cross_entropy = -(labels / num_positives.clamp(min=1)[:, None] * log_softmax).sum(1)
    return (weight * cross_entropy).sum() / (B * M)
