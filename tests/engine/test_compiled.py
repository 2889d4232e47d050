import copy
import functools
import os
import shutil

import pytest
import torch
import torch._dynamo.utils

from engine import loop
from models.fpn import FPN
from models.networks import networks_of
from tests.small_methods import tiny
from utils.errors import UserError


def compiler() -> str | None:
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


def test_trunk_neck_and_heads_are_compiled_and_nothing_else():
    method = tiny("resim", "model.compile=default").method
    compiled = [module for module in method.modules() if module._compiled_call_impl is not None]
    assert compiled == networks_of(method) and len(compiled) == 6
    assert any(isinstance(module, FPN) for module in compiled)


def test_parameters_keep_their_names_and_a_compiled_method_can_be_copied():
    plain, compiled = (tiny("r2o", f"model.compile={mode}").method for mode in ("false", "reduce-overhead"))
    assert list(compiled.state_dict()) == list(plain.state_dict())
    compiled.load_state_dict(plain.state_dict())
    assert list(copy.deepcopy(compiled).state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("mode, passes", [("false", 0), ("default", 0), ("reduce-overhead", 1), ("max-autotune", 1)])
def test_cuda_graphs_are_told_where_a_pass_begins(mode, passes, monkeypatch):
    trained, begun = tiny("r2o", f"model.compile={mode}"), []
    for network in networks_of(trained.method):
        # To compile would take a minute, and what begins a pass is not the compiler's affair.
        network._compiled_call_impl = None
    monkeypatch.setattr(loop, "begin_pass", lambda: begun.append(True))
    trained.step(0)
    assert len(begun) == passes


def test_graphs_that_overwrite_a_micro_batchs_gradients_are_refused():
    with pytest.raises(UserError, match="model.compile: reduce-overhead.*accumulate_steps is 2"):
        tiny("r2o", "model.compile=reduce-overhead", "optimizer.accumulate_steps=2")


def test_heads_are_compiled_for_all_numbers_of_regions_at_once(monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(_compile_eagerly, torch.nn.Module.compile))
    torch._dynamo.reset()
    counted = torch._dynamo.utils.counters["stats"]
    trained, counts = tiny("r2o", "model.compile=default"), []
    for clusters in range(6, 1, -1):
        trained.method.num_clusters = lambda progress, clusters=clusters: clusters
        trained.step(0)
        counts.append(counted["unique_graphs"])
    # The second number makes the heads general; from then on nothing is compiled again.
    assert counts[0] > 0 and counts[1] < counts[0] * 2 and len(set(counts[2:])) == 1


def _compile_eagerly(network, compile, **options):
    """Without a compiler behind it, which would take a minute."""
    compile(network, backend="eager", dynamic=options["dynamic"])


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="torch.compile needs a C++ compiler")
def test_compiled_networks_have_the_losses_and_gradients_of_those_that_are_not():
    plain = tiny("byol")
    compiled, counted = tiny("byol", "model.compile=default"), torch._dynamo.utils.counters["stats"]
    before = counted["unique_graphs"]
    losses, gradients = zip(*(run(trained) for trained in (plain, compiled)))
    # Trunk, projector and predictor; the target's two without gradient.
    assert counted["unique_graphs"] - before == 5
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-12, atol=0)
    for ours, expected in zip(gradients[1], gradients[0]):
        torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-10)


def run(trained) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """In float64, where rounding is far below what a mistake would be."""
    trained.method.double()
    trained.batch["images"] = trained.batch["images"].double()
    output = trained.method(trained.batch, torch.Generator())
    output.losses["loss"].backward()
    return output.losses["loss"].detach(), [p.grad for p in trained.method.parameters() if p.grad is not None]
