import pytest
import torch

from benchmarks.synthetic import METHODS, VARIANTS
from tests.engine.host_reads import HostReads
from tests.small_methods import tiny

EVERY = pytest.mark.parametrize("name", METHODS | VARIANTS)


@EVERY
def test_a_step_reads_nothing_from_the_device(name):
    trained = tiny(name)
    # The first step makes the optimiser's buffers.
    trained.step(0)
    with HostReads(host=[trained.batch["seed"]]) as reads:
        trained.step(1)
    assert known(reads.found) == []


def known(found: list[str]) -> list[str]:
    """Without what the CPU alone does: its K-means stops early."""
    return [line for line in found if "torch.equal(new_labels[valid], labels[valid])" not in line]


@EVERY
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["O0", "O1"])
def test_a_step_does_not_wait_for_a_gpu(name, precision):
    trained = tiny(name, device="cuda", precision=precision)
    trained.step(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trained.step(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


PLANTED = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.sum() > 0),
    "list": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "mask": lambda x: x[x > 0],
    "set by mask": lambda x: x.__setitem__(x > 0, torch.zeros(3)),
    "places": lambda x: x.nonzero(),
    "different values": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "cpu": lambda x: x.cpu(),
    "index by a list": lambda x: x[[0, 1]],
    "numbers to the device": lambda x: torch.tensor([1.0], device=x.device),
    "draws to the device": lambda x: torch.rand(3, generator=torch.Generator()).to(x.device),
}


@pytest.mark.parametrize("what", PLANTED)
def test_what_waits_is_found_with_its_place(what):
    x = torch.ones(3)
    with HostReads() as reads:
        PLANTED[what](x)
    assert len(reads.found) >= 1 and "test_host_reads.py" in reads.found[0]


def test_a_read_planted_in_a_step_is_found():
    trained = tiny("byol")
    trained.step(0)
    trained.method.momentum = lambda progress: float(trained.method.backbone.bn1.weight.detach().mean())
    with HostReads(host=[trained.batch["seed"]]) as reads:
        trained.step(1)
    assert len(reads.found) == 1


def test_a_read_planted_in_the_backward_pass_is_found():
    x = torch.ones(3, requires_grad=True)
    y = 2 * x
    y.register_hook(lambda gradient: gradient * gradient.sum().item())
    with HostReads() as reads:
        y.sum().backward()
    assert len(reads.found) == 1


def test_what_the_host_has_drawn_itself_may_be_read():
    seeds, generator = torch.arange(4), torch.Generator()
    with HostReads(host=[seeds]) as reads:
        seeds[::2].tolist()
        order = torch.randperm(4, generator=generator)
        torch.bincount(order[order > 1]).tolist()
        int(torch.randint(3, 5, (), generator=generator))
        torch.rand(3, generator=generator).to("cpu", non_blocking=True)
    assert reads.found == []
