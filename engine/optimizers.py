"""The optimisers a config can name."""

from typing import Any

import torch
from torch.optim import Optimizer

from engine.lars import LARS

OPTIMIZERS = ("lars", "sgd", "adamw")


def build_optimizer(
    groups: list[dict[str, Any]],
    *,
    type: str,
    momentum: float = 0.9,
    lars_variant: str = "released",
    nesterov: bool = False,
) -> Optimizer:
    """Make an optimiser for `engine.lars.parameter_groups`; its learning rate is 0 until the loop sets it.

    Args:
        groups: parameters with `weight_decay` and `lars_exclude`, which only LARS reads.
        type: `lars`, `sgd` or `adamw`.
        momentum: of the buffer; AdamW's first beta.
        lars_variant: see `engine.lars.LARS`; nesterov: of LARS and SGD.
    Raises:
        ValueError: for an unknown type.
    """
    if type == "lars":
        return LARS(groups, lr=0.0, momentum=momentum, variant=lars_variant, nesterov=nesterov)
    if type == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=nesterov)
    if type == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=(momentum, 0.999))
    raise ValueError(f"unknown optimizer {type!r}: use one of {', '.join(OPTIMIZERS)}")
