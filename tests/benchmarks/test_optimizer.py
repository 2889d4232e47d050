import pytest
import torch

from benchmarks import optimizer
from benchmarks.baselines.lars import PerTensorLARS
from engine.lars import LARS_VARIANTS


@pytest.fixture(scope="module")
def networks():
    return optimizer.make_networks("resnet_tiny", torch.device("cpu"))


@pytest.mark.parametrize("variant", LARS_VARIANTS)
def test_all_tensors_at_once_move_as_one_after_the_other(networks, variant):
    optimizer.check(networks, variant=variant)


def test_forms_that_differ_are_not_timed(networks, monkeypatch):
    monkeypatch.setattr(PerTensorLARS, "_move", lambda self, parameter, group: parameter.sub_(parameter.grad))
    with pytest.raises(AssertionError):
        optimizer.check(networks)
