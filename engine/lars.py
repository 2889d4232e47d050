"""Layer-wise adaptive rates (LARS) for all parameters at once, and the groups it tells apart."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

_NORM_LAYERS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


class _Variant(NamedTuple):
    decay_in_norm: bool  # the ratio is over |g + wd w|, else over |g| + wd |w|
    rate_in_buffer: bool  # the momentum buffer sums steps, else directions
    epsilon: float


LARS_VARIANTS = {
    "released": _Variant(decay_in_norm=False, rate_in_buffer=True, epsilon=0.0),
    "deepmind": _Variant(decay_in_norm=True, rate_in_buffer=False, epsilon=0.0),
    "cyborgs": _Variant(decay_in_norm=True, rate_in_buffer=False, epsilon=1e-8),
}


class LARS(Optimizer):
    """SGD with momentum whose rate, for each tensor, is scaled by eta |w| / |g|.

    Args:
        params: parameters or groups; in a group with `lars_exclude: True` nothing is decayed or scaled.
        lr: learning rate; the loop sets each group's before a step.
        eta: trust coefficient.
        variant: `released` (R2O, DetCon-B: ratio eta |w| / (|g| + wd |w|), rate inside the momentum buffer), `deepmind`
            (ratio over |g + wd w|, rate applied after) or `cyborgs` (as deepmind's, 1e-8 added to the norm).
        nesterov: look ahead along the buffer.
    The ratio is 1 where a norm in it is zero. No step waits for the device.
    Source: You et al. 2017; BYOL, appendix J; the releases' lars.py.
    """

    def __init__(
        self,
        params: Iterable,
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 0.001,
        variant: str = "released",
        nesterov: bool = False,
    ) -> None:
        if variant not in LARS_VARIANTS:
            raise ValueError(f"unknown LARS variant {variant!r}: use one of {', '.join(LARS_VARIANTS)}")
        defaults = dict(
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            eta=eta,
            variant=variant,
            nesterov=nesterov,
            lars_exclude=False,
        )
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step_group(params, group)
        return loss

    def _step_group(self, params: list[Tensor], group: dict[str, Any]) -> None:
        variant = LARS_VARIANTS[group["variant"]]
        updates = [p.grad for p in params]
        if not group["lars_exclude"]:
            updates = _adapt(params, updates, variant, eta=group["eta"], weight_decay=group["weight_decay"])
            if variant.rate_in_buffer:
                # What was adapted is nobody's but ours: to work in place saves a pass over memory.
                torch._foreach_mul_(updates, group["lr"])
        elif variant.rate_in_buffer:
            updates = torch._foreach_mul(updates, group["lr"])
        buffers = [self._buffer(p) for p in params]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, updates)
        if group["nesterov"]:
            updates = torch._foreach_add(updates, buffers, alpha=group["momentum"])
        else:
            updates = buffers
        torch._foreach_add_(params, updates, alpha=-1.0 if variant.rate_in_buffer else -group["lr"])

    def _buffer(self, param: Tensor) -> Tensor:
        state = self.state[param]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(param)
        return state["momentum_buffer"]


def _adapt(
    params: list[Tensor], gradients: list[Tensor], variant: _Variant, *, eta: float, weight_decay: float
) -> list[Tensor]:
    """Decayed gradients, each scaled by its tensor's trust ratio."""
    decayed = torch._foreach_add(gradients, params, alpha=weight_decay)
    weight_norm = torch.stack(torch._foreach_norm(params))
    if variant.decay_in_norm:
        norm = torch.stack(torch._foreach_norm(decayed))
    else:
        norm = torch.stack(torch._foreach_norm(gradients)) + weight_decay * weight_norm
    # A tensor of zeros, or one without gradient and decay, would otherwise never move or divide by zero.
    ratio = torch.where((weight_norm > 0) & (norm > 0), eta * weight_norm / (norm + variant.epsilon), 1.0)
    torch._foreach_mul_(decayed, ratio.unbind())
    return decayed


def parameter_groups(
    module: nn.Module,
    *,
    weight_decay: float,
    exclude_bias_and_bn: bool,
    decay_stem_norm: bool = False,
) -> list[dict[str, Any]]:
    """Split the trainable parameters into decayed ones and those that weight decay and LARS leave alone.

    Args:
        module: what trains, with the backbone first.
        weight_decay: of the first group.
        exclude_bias_and_bn: False puts all parameters into one decayed group.
        decay_stem_norm: True decays the scale, not the bias, of the first norm layer.
    Returns:
        Groups for any optimiser here; the excluded one has `lars_exclude: True` and no decay, and is left out if empty.
    Differs: layers are told by type. The released code looks for "bn" in names, which lets the stem's scale through;
        `decay_stem_norm=True` brings that back.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    excluded = _norms_and_biases(module, keep_first_scale=decay_stem_norm) if exclude_bias_and_bn else set()
    groups = [
        {"params": [p for p in trained if id(p) not in excluded], "weight_decay": weight_decay, "lars_exclude": False},
        {"params": [p for p in trained if id(p) in excluded], "weight_decay": 0.0, "lars_exclude": True},
    ]
    return [group for group in groups if group["params"]]


def _norms_and_biases(module: nn.Module, *, keep_first_scale: bool) -> set[int]:
    found = set()
    for layer in module.modules():
        is_norm = isinstance(layer, _NORM_LAYERS)
        for name, parameter in layer.named_parameters(recurse=False):
            if is_norm and keep_first_scale and name == "weight":
                keep_first_scale = False
            elif is_norm or name.endswith("bias"):
                found.add(id(parameter))
    return found
