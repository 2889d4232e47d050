"""The target network: a slow average of the online one."""

import copy

import torch
from torch import nn


def make_target(*modules: nn.Module) -> nn.ModuleList:
    """A copy of the online modules that no gradient reaches."""
    target = nn.ModuleList(copy.deepcopy(module) for module in modules)
    return target.requires_grad_(False)


@torch.no_grad()
def update_target(target: nn.ModuleList, *modules: nn.Module, momentum: float) -> None:
    """target = momentum * target + (1 - momentum) * online, parameters only.

    BatchNorm statistics are the target's own, moved by its own forward passes, as in the released R2O, DetCon-B and CYBORGS.
    """
    slow = list(target.parameters())
    fast = [parameter for module in modules for parameter in module.parameters()]
    torch._foreach_lerp_(slow, fast, 1.0 - momentum)
