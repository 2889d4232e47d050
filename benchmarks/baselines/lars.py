"""LARS and the target's average as published code has them: one tensor after the other, each norm read by the host."""

import torch
from torch import Tensor, nn

from engine.lars import LARS, LARS_VARIANTS


class PerTensorLARS(LARS):
    """engine.lars.LARS without Nesterov's momentum, a tensor at a time."""

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            assert not group["nesterov"]
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: Tensor, group: dict) -> None:
        variant, decay, update = LARS_VARIANTS[group["variant"]], group["weight_decay"], parameter.grad
        if not group["lars_exclude"]:
            update = update + decay * parameter
            weight_norm, gradient_norm = parameter.norm(), parameter.grad.norm()
            norm = update.norm() if variant.decay_in_norm else gradient_norm + decay * weight_norm
            # A comparison that the host makes: on a GPU it waits for every tensor.
            if weight_norm > 0 and norm > 0:
                update = update * (group["eta"] * weight_norm / (norm + variant.epsilon))
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        inside, outside = (group["lr"], 1.0) if variant.rate_in_buffer else (1.0, group["lr"])
        buffer = state["momentum_buffer"]
        buffer.mul_(group["momentum"]).add_(update * inside)
        parameter.sub_(buffer * outside)


@torch.no_grad()
def update_target_per_tensor(target: nn.ModuleList, *modules: nn.Module, momentum: float) -> None:
    """models.momentum.update_target, a tensor at a time, by a new tensor for each."""
    online = (parameter for module in modules for parameter in module.parameters())
    for slow, fast in zip(target.parameters(), online):
        slow.data = momentum * slow.data + (1.0 - momentum) * fast.data
