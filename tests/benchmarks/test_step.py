import json

import pytest
import torch
from torch.utils._pytree import tree_leaves

from benchmarks import step
from benchmarks.bare import check_bare, record_calls, run_bare
from benchmarks.baselines import step as baseline
from benchmarks.parts import PARTS, part_milliseconds
from benchmarks.synthetic import METHODS, VARIANTS
from tests.small_methods import tiny


@pytest.mark.parametrize("name", METHODS | VARIANTS)
def test_the_networks_alone_come_to_the_steps_gradients(name):
    trained = tiny(name)
    check_bare(record_calls(trained), trained)


def test_a_network_left_out_is_noticed():
    trained = tiny("detconb")
    calls = record_calls(trained)
    online = [call for call in calls if call.online]
    with pytest.raises(AssertionError):
        check_bare([call for call in calls if call is not online[-1]], trained)


def test_the_bound_holds_r2os_spanning_view_and_the_target_without_gradient():
    trained = tiny("r2o")
    calls = record_calls(trained)
    assert [call.online for call in calls].count(True) == 3
    spanning = [call for call in calls if call.arguments[1] == {"last": "c4"}]
    assert len(spanning) == 1 and torch.equal(spanning[0].arguments[0][0], trained.batch["spanning"])


def test_the_bound_adds_nothing_up_between_runs():
    trained = tiny("resim")
    calls = record_calls(trained)
    run_bare(calls, trained)
    assert all(leaf.grad is None for leaf in tree_leaves([call.arguments for call in calls]) if torch.is_tensor(leaf))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_loss_among_its_parts(name):
    parts = part_milliseconds(tiny(name), torch.device("cpu"), repeats=1)
    assert parts["loss"] > 0 and parts["target forward"] > 0


def test_a_published_structure_with_other_losses_is_not_timed():
    one, other = tiny("resim"), tiny("resim")
    baseline._check(one, other)
    other.batch["images"] = other.batch["images"].flip(0)
    with pytest.raises(AssertionError, match="other losses"):
        baseline._check(one, other)


def test_measuring_parts_leaves_the_method_as_it_was():
    trained = tiny("r2o")
    before = {name: set(vars(module)) for name, module in trained.method.named_modules()}
    parts = part_milliseconds(trained, torch.device("cpu"), repeats=1)
    assert {name: set(vars(module)) for name, module in trained.method.named_modules()} == before
    assert set(parts) == set(PARTS) - {"correspondence"} and all(value > 0 for value in parts.values())


def test_a_run_writes_the_step_its_bound_and_its_parts(tmp_path):
    argv = ["--method", "resim", "--backbone", "resnet_tiny", "--size", "64", "--threads", "1", "--published"]
    assert step.main([*argv, "--sweep", "batch", "2", "4", "--json", str(tmp_path / "step.json")]) == 0
    rows = json.loads((tmp_path / "step.json").read_text())["rows"]
    steps = [row for row in rows if row["what"] == "step"]
    assert [(row["method"], row["batch"]) for row in steps] == [("resim", 2), ("resim", 4)]
    assert all(row["ratio"] == row["ms"] / row["bound_ms"] for row in steps)
    assert {row["what"] for row in rows} == {"step", "published structure, float32", "part"}
