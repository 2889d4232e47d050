"""A step in the published structure: views one after the other, contiguous tensors, a tensor at a time, float32."""

import importlib
from collections.abc import Callable
from contextlib import ExitStack
from unittest import mock

import torch

from benchmarks.baselines.lars import PerTensorLARS, update_target_per_tensor
from benchmarks.synthetic import make_config, make_trained
from engine.lars import LARS

# Those that move a target network.
_METHODS = ("byol", "cyborgs", "detconb", "orl", "r2o", "resim")


def published_step(name: str, device: torch.device, *, clusters: int, **options) -> Callable[[], object]:
    """The same method, trunk, size and batch; `options` are those of `make_config`, whose precision is not asked."""
    # ReSim's two networks see a view each.
    separate = () if name in ("resim", "mocov2") else ("model.joint_views=false",)
    config = make_config(name, **{**options, "precision": "O0", "overrides": separate})
    trained = make_trained(name, config, device, clusters=clusters)
    trained.method.to(memory_format=torch.contiguous_format)
    trained = trained._replace(optimizer=_per_tensor(trained.optimizer))

    def step() -> None:
        with ExitStack() as stack:
            for method in _METHODS:
                module = importlib.import_module(f"models.{method}")
                stack.enter_context(mock.patch.object(module, "update_target", update_target_per_tensor))
            trained.step()

    return step


def _per_tensor(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    if isinstance(optimizer, LARS):
        given = {key: optimizer.defaults[key] for key in ("lr", "momentum", "variant", "eta")}
        return PerTensorLARS(optimizer.param_groups, **given)
    groups = [group | {"foreach": False} for group in optimizer.param_groups]
    return torch.optim.SGD(groups, **{key: optimizer.defaults[key] for key in ("lr", "momentum", "nesterov")})
