import pytest
import torch

from engine.guard import FiniteGuard
from utils.errors import DivergedError


def losses(byol, extra=0.25):
    return {"byol": torch.tensor(byol), "extra": torch.tensor(extra)}


def test_finite_losses_pass():
    guard = FiniteGuard(torch.device("cpu"))
    guard.check(lambda step: 0.1)
    for step in range(3):
        guard.update(step, losses(1e30))
    guard.check(lambda step: 0.1)


@pytest.mark.parametrize("bad, shown", [(float("nan"), "nan"), (float("inf"), "inf"), (float("-inf"), "-inf")])
def test_the_first_bad_step_is_reported_with_its_parts_and_the_rate(bad, shown):
    guard = FiniteGuard(torch.device("cpu"))
    for step, value in enumerate([0.5, 0.5, bad, 0.5, float("nan")]):
        guard.update(step, losses(value, extra=step / 2))
    with pytest.raises(DivergedError, match=f"step 2 on rank 0: byol {shown}, extra 1; learning rate 0.125") as error:
        guard.check(lambda step: 0.125)
    assert error.value.exit_code == 4


def test_a_bad_part_is_noticed_wherever_it_stands_and_whatever_its_type():
    guard = FiniteGuard(torch.device("cpu"))
    overflow = torch.tensor(float("inf"), dtype=torch.bfloat16)
    guard.update(0, {"byol": torch.tensor(0.5, requires_grad=True), "extra": overflow})
    with pytest.raises(DivergedError, match="extra inf"):
        guard.check(lambda step: 0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_an_update_does_not_wait_for_the_device():
    guard = FiniteGuard(torch.device("cuda"))
    parts = {name: value.cuda() for name, value in losses(0.5).items()}
    guard.update(0, parts)
    torch.cuda.set_sync_debug_mode("error")
    try:
        guard.update(1, parts)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    guard.check(lambda step: 0.1)
