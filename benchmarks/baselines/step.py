"""A step in the published structure: contiguous tensors, optimiser and average a tensor at a time, float32."""

import importlib
from collections.abc import Callable
from contextlib import ExitStack
from unittest import mock

import torch

from benchmarks.baselines.lars import PerTensorLARS, update_target_per_tensor
from benchmarks.synthetic import Trained, make_config, make_trained
from engine.lars import LARS

# Those that move a target network.
_METHODS = ("byol", "cyborgs", "detconb", "orl", "r2o", "resim")


def published_step(name: str, device: torch.device, *, clusters: int, **options) -> Callable[[], object]:
    """The same method, trunk, size and batch; `options` are those of `make_config`, whose precision is not asked."""
    config = make_config(name, **options | {"precision": "O0"})
    trained = make_trained(name, config, device, clusters=clusters)
    trained.method.to(memory_format=torch.contiguous_format)
    trained = trained._replace(optimizer=_per_tensor(trained.optimizer))
    _check(make_trained(name, config, device, clusters=clusters), trained)

    def step() -> None:
        with ExitStack() as stack:
            for method in _METHODS:
                module = importlib.import_module(f"models.{method}")
                stack.enter_context(mock.patch.object(module, "update_target", update_target_per_tensor))
            trained.step()

    return step


def _check(ours: Trained, published: Trained) -> None:
    """Both have the same losses, or nothing is timed."""
    published.method.load_state_dict(ours.method.state_dict())
    losses = [
        torch.stack(list(one.method(one.batch, torch.Generator().manual_seed(0)).losses.values())).detach()
        for one in (ours, published)
    ]
    # On a GPU another order in memory rounds otherwise, and K-means may put a superpixel elsewhere.
    rtol = 1e-4 if losses[0].device.type == "cpu" else 5e-2
    assert torch.allclose(*losses, rtol=rtol), f"the published structure has other losses: {losses}"


def _per_tensor(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    if isinstance(optimizer, LARS):
        given = {key: optimizer.defaults[key] for key in ("lr", "momentum", "variant", "eta")}
        return PerTensorLARS(optimizer.param_groups, **given)
    groups = [group | {"foreach": False} for group in optimizer.param_groups]
    return torch.optim.SGD(groups, **{key: optimizer.defaults[key] for key in ("lr", "momentum", "nesterov")})
