"""A step's networks alone: their calls, noted in a real step, to be run again without all that lies between them."""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from benchmarks.synthetic import Trained
from engine.compiled import begin_pass
from models.networks import networks_of


class Call(NamedTuple):
    """One call of a network in a step."""

    network: nn.Module
    arguments: tuple[Any, dict]
    online: bool  # a gradient is wanted
    gradients: list[Tensor | None]  # of each tensor that it returns, once the backward pass is over


@contextmanager
def replaced(owner: Any, name: str, wrap: Callable[[Callable], Callable]) -> Iterator[None]:
    """`wrap(owner.name)` in place of `owner.name`, for a while."""
    was_own, original = name in vars(owner), getattr(owner, name)
    object.__setattr__(owner, name, wrap(original))
    try:
        yield
    finally:
        object.__delattr__(owner, name)
        if was_own:
            object.__setattr__(owner, name, original)


@contextmanager
def around_calls(networks: Iterable[nn.Module], wrap: Callable[[nn.Module, Callable], Callable]) -> Iterator[None]:
    """`wrap(network, call)` in place of each network's call, compiled or not, for a while."""
    with ExitStack() as stack:
        for network in networks:
            name = "forward" if network._compiled_call_impl is None else "_compiled_call_impl"
            stack.enter_context(replaced(network, name, functools.partial(wrap, network)))
        yield


def record_calls(trained: Trained) -> list[Call]:
    """The networks' calls in one forward and backward pass, whose gradients are left in the parameters."""
    calls: list[Call] = []

    def noting(network: nn.Module, run: Callable) -> Callable:
        def call(*args, **kwargs):
            arguments = tree_map_only(Tensor, _copy, (args, kwargs))
            # A name of their own for what leaves the network: of what a stage gives, the next stage's gradient is its own affair.
            outputs = tree_map_only(Tensor, lambda tensor: tensor.view_as(tensor), run(*args, **kwargs))
            tensors, online = tree_leaves(outputs), torch.is_grad_enabled()
            gradients: list[Tensor | None] = [None] * len(tensors)
            for place, tensor in enumerate(tensors):
                if tensor.requires_grad:
                    tensor.register_hook(functools.partial(_keep, gradients, place))
            calls.append(Call(network, arguments, online, gradients))
            return outputs

        return call

    trained.optimizer.zero_grad()
    trained.method.before_step(trained.plan.progress(1))
    with around_calls(networks_of(trained.method), noting):
        with trained.precision.autocast():
            output = trained.method(trained.batch, torch.Generator().manual_seed(0))
        trained.precision.backward(sum(output.losses.values()))
    return calls


def run_bare(calls: list[Call], trained: Trained) -> None:
    """All forward passes of the calls, and one backward pass of those that are online; adds to the parameters' gradients."""
    outputs: list[Tensor] = []
    gradients: list[Tensor] = []
    if trained.plan.cuda_graphs:
        begin_pass()
    with trained.precision.autocast():
        for call in calls:
            args, kwargs = call.arguments
            with torch.set_grad_enabled(call.online):
                found = tree_leaves(call.network(*args, **kwargs))
            wanted = [place for place, gradient in enumerate(call.gradients) if gradient is not None]
            outputs += [found[place] for place in wanted]
            gradients += [call.gradients[place] for place in wanted]
    torch.autograd.backward(outputs, gradients)
    for leaf in tree_leaves([call.arguments for call in calls]):
        if isinstance(leaf, Tensor):
            # In a step it goes on to the layer before; to add it up here would be work that the step has not.
            leaf.grad = None


def check_bare(calls: list[Call], trained: Trained) -> None:
    """The networks alone come to the gradients that `record_calls` has left, or nothing is timed."""
    parameters = [parameter for parameter in trained.method.parameters() if parameter.grad is not None]
    expected = [parameter.grad for parameter in parameters]
    trained.optimizer.zero_grad()
    run_bare(calls, trained)
    low = any(call.gradients[0] is not None and call.gradients[0].dtype != torch.float32 for call in calls)
    for parameter, gradient in zip(parameters, expected):
        apart = torch.inf if parameter.grad is None else (parameter.grad - gradient).norm()
        assert apart <= (5e-2 if low else 1e-3) * gradient.norm() + 1e-6, "the networks alone have other gradients"
    trained.optimizer.zero_grad()


def _copy(tensor: Tensor) -> Tensor:
    # What CUDA graphs give out is overwritten by their next run.
    copied = tensor.detach().clone(memory_format=torch.preserve_format)
    # What the networks' own inputs would cost in the backward pass, they cost here too.
    return copied.requires_grad_(tensor.requires_grad and torch.is_grad_enabled())


def _keep(gradients: list[Tensor | None], place: int, gradient: Tensor) -> None:
    gradients[place] = gradient.detach().clone()
