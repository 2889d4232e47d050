"""The axis of views: folded into the batch for the networks, unfolded for the comparison."""

from collections.abc import Callable

import torch
from torch import Tensor


def fold_views(x: Tensor) -> Tensor:
    """(B, V, ...) -> (V B, ...): all first views, then all second ones."""
    return x.transpose(0, 1).flatten(0, 1)


def unfold_views(x: Tensor, *, views: int = 2) -> Tensor:
    """(V B, ...) -> (B, V, ...), what `fold_views` folded."""
    return x.unflatten(0, (views, -1)).transpose(0, 1)


def by_view(function: Callable[[Tensor], Tensor], x: Tensor, *, joint: bool, views: int = 2) -> Tensor:
    """`function` of folded views, all at once if `joint`, else one view after the other.

    BatchNorm inside of it then sees both views together (R2O, DetCon-B) or each on its own (BYOL, ORL, CYBORGS).
    """
    return function(x) if joint else torch.cat([function(view) for view in x.chunk(views)])
