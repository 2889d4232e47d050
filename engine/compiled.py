"""torch.compile for a method's networks, where the config asks for it."""

from collections.abc import Iterable

import torch
from torch import nn

# What torch.compile's modes here replay as CUDA graphs on a GPU.
_CUDA_GRAPHS = ("reduce-overhead", "max-autotune")
# A trunk is compiled for the online and the target network, views, whole images, patches and pictures; torch stops at 8.
_MOST_FORMS = 64


def compile_networks(networks: Iterable[nn.Module], mode: str) -> None:
    """Have networks compiled when they are first called, in place: their parameters' names stay, and what wraps them fits.

    Args:
        networks: trunks and heads; what a method does between them is not compiled.
        mode: torch.compile's. What is computed is the same to rounding.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_FORMS)
    for network in networks:
        # Training has few shapes, each in every step: each is compiled for itself.
        network.compile(mode=mode, dynamic=False)


def runs_cuda_graphs(mode: str | bool) -> bool:
    """Whether networks compiled in this mode live in CUDA graphs where there is a GPU: `begin_pass` must say when."""
    return mode in _CUDA_GRAPHS


def begin_pass() -> None:
    """What CUDA graphs gave out before may be overwritten from here on; without a GPU nothing happens."""
    torch.compiler.cudagraph_mark_step_begin()
