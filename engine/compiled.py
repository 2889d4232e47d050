"""torch.compile for a method's networks, where the config asks for it."""

import torch
from torch import nn

# A trunk is compiled for the online and the target network, views, whole images, patches and pictures; torch stops at 8.
_MOST_FORMS = 64


def compile_network(network: nn.Module, mode: str, *, shapes_vary: bool) -> None:
    """Have a network compiled when it is first called, in place: its parameters' names stay, and what wraps it fits.

    Args:
        network: a trunk, neck or head; what a method does between them is not compiled.
        mode: torch.compile's. What is computed is the same to rounding.
        shapes_vary: it sees many shapes, as a head does where the number of regions falls from epoch to epoch: one form then
            serves all. False compiles each shape for itself.
    """
    config = torch._dynamo.config
    # Torch 2.6 has the older name.
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, limit, max(getattr(config, limit), _MOST_FORMS))
    # A CUDA graph holds for one shape: to record one for each number of regions would fill the memory.
    torch._inductor.config.triton.cudagraph_skip_dynamic_graphs = True
    network.compile(mode=mode, dynamic=None if shapes_vary else False)


def begin_pass() -> None:
    """What CUDA graphs gave out before may be overwritten from here on; without a GPU nothing happens."""
    torch.compiler.cudagraph_mark_step_begin()
