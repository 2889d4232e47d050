import contextlib
import logging
import sys
import types

import pytest
import torch
from torch import nn

from engine.precision import Precision
from utils.errors import DivergedError, UserError

CPU = torch.device("cpu")


def make(opt_level="O0", dtype="bfloat16", backend="native"):
    return Precision(opt_level, dtype=dtype, backend=backend, device=CPU)


def one_parameter(rate=1.0):
    parameter = nn.Parameter(torch.tensor([1.0, 1.0]))
    return parameter, torch.optim.SGD([parameter], lr=rate)


@pytest.mark.parametrize(
    "opt_level, dtype, expected",
    [("O0", "float16", torch.float32), ("O1", "bfloat16", torch.bfloat16), ("O2", "float16", torch.float16)],
)
def test_the_forward_pass_runs_in_the_levels_type(opt_level, dtype, expected):
    with make(opt_level, dtype).autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == expected


def test_o2_is_o1_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        make("O1")
        assert not caplog.text
        make("O2")
    assert "runs it as O1" in caplog.text


@pytest.mark.parametrize("opt_level, dtype", [("O0", "float16"), ("O1", "bfloat16"), ("O1", "float16")])
def test_a_step_uses_the_true_gradient_and_gives_its_norm(opt_level, dtype):
    precision = make(opt_level, dtype)
    parameter, optimizer = one_parameter()
    precision.backward((parameter * torch.tensor([3.0, 4.0])).sum())
    assert precision.step(optimizer).item() == pytest.approx(5.0)
    assert parameter.tolist() == [-2.0, -3.0]


@pytest.mark.parametrize("opt_level, dtype", [("O0", "float16"), ("O1", "float16")])
@pytest.mark.parametrize("limit, step", [(2.5, [1.5, 2.0]), (10.0, [3.0, 4.0])])
def test_long_gradients_are_shortened_and_the_norm_before_is_told(opt_level, dtype, limit, step):
    precision = Precision(opt_level, dtype=dtype, backend="native", device=CPU, clip_norm=limit)
    parameter, optimizer = one_parameter()
    precision.backward((parameter * torch.tensor([3.0, 4.0])).sum())
    assert precision.step(optimizer).item() == pytest.approx(5.0)
    assert (1 - parameter).tolist() == pytest.approx(step)


def test_gradients_of_zero_are_not_divided_by_their_norm():
    precision = Precision("O0", dtype="float16", backend="native", device=CPU, clip_norm=1.0)
    parameter, optimizer = one_parameter()
    precision.backward((parameter * 0).sum())
    assert precision.step(optimizer).item() == 0 and parameter.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("limit", [None, 1.0])
def test_skipped_steps_are_counted(limit):
    precision = Precision("O1", dtype="float16", backend="native", device=CPU, clip_norm=limit)
    parameter, optimizer = one_parameter()
    for factor in (1.0, float("inf"), 1.0, float("nan")):
        optimizer.zero_grad()
        precision.backward((parameter * factor).sum())
        precision.step(optimizer)
    assert precision.read()["skipped_steps"] == 2 and torch.isfinite(parameter).all()
    assert make("O1", "bfloat16").read() == {}


def test_gradients_that_always_overflow_end_the_run():
    precision = make("O1", "float16")
    parameter, optimizer = one_parameter()
    for _ in range(40):
        optimizer.zero_grad()
        precision.backward((parameter * float("inf")).sum())
        precision.step(optimizer)
    with pytest.raises(DivergedError, match="overflow at every step.*bfloat16"):
        precision.read()


def test_gradients_add_up_over_micro_batches():
    precision = make("O1", "float16")
    parameter, optimizer = one_parameter()
    for _ in range(2):
        precision.backward(parameter.sum())
    precision.step(optimizer)
    assert parameter.tolist() == [-1.0, -1.0]


def test_float16_skips_a_step_that_overflowed_and_lowers_its_scale():
    precision = make("O1", "float16")
    parameter, optimizer = one_parameter()
    precision.backward((parameter * float("inf")).sum())
    before = precision.state_dict()["scale"]
    assert not torch.isfinite(precision.step(optimizer))
    assert parameter.tolist() == [1.0, 1.0]
    assert precision.state_dict()["scale"] == before / 2


def test_only_float16_scales_the_loss():
    assert [make(*level).scales_loss for level in [("O0", "float16"), ("O1", "bfloat16"), ("O1", "float16")]] == [
        False,
        False,
        True,
    ]


def test_a_resumed_run_takes_up_the_scale_and_other_precisions_ignore_it():
    precision, resumed = make("O1", "float16"), make("O1", "float16")
    parameter, optimizer = one_parameter()
    precision.backward((parameter * float("inf")).sum())
    precision.step(optimizer)
    resumed.load_state_dict(precision.state_dict())
    assert resumed.state_dict() == precision.state_dict() != make("O1", "float16").state_dict()
    make("O0").load_state_dict(precision.state_dict())
    resumed.load_state_dict(make("O0").state_dict())
    assert resumed.state_dict() == precision.state_dict()


def test_an_optimiser_without_gradients_has_norm_zero():
    assert make().step(one_parameter()[1]).item() == 0.0


@pytest.mark.parametrize("module", [None, types.ModuleType("apex")], ids=["missing", "another project"])
def test_apex_that_is_not_there_says_what_is_missing_and_what_to_set(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "apex", module)
    with pytest.raises(UserError, match="apex.amp.*amp.backend: native"):
        make("O1", backend="apex")


def test_an_installed_apex_prepares_scales_and_saves(monkeypatch):
    calls = []

    @contextlib.contextmanager
    def scale_loss(loss, optimizer):
        calls.append(optimizer)
        yield loss

    amp = types.SimpleNamespace(
        initialize=lambda module, optimizer, opt_level, verbosity: (module, f"{opt_level} optimizer"),
        scale_loss=scale_loss,
        state_dict=lambda: {"loss_scaler0": 1},
        load_state_dict=calls.append,
    )
    apex = types.ModuleType("apex")
    apex.amp = amp
    monkeypatch.setitem(sys.modules, "apex", apex)
    precision = make("O2", "float16", backend="apex")
    parameter, optimizer = one_parameter()
    assert precision.prepare(nn.Identity(), optimizer)[1] == "O2 optimizer"
    precision.backward(parameter.sum())
    precision.load_state_dict(precision.state_dict())
    assert calls == ["O2 optimizer", {"loss_scaler0": 1}]
    assert parameter.grad.tolist() == [1.0, 1.0]
    precision.step(optimizer)
    assert parameter.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("wrong", [("O3", "float16", "native"), ("O1", "int8", "native"), ("O1", "float16", "nvidia")])
def test_unknown_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=wrong[0]):
        make(*wrong)


def test_a_gpu_that_emulates_bfloat16_is_warned_of(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    with caplog.at_level(logging.WARNING):
        Precision("O1", dtype="bfloat16", backend="native", device=torch.device("cuda"))
    assert "amp.dtype: float16" in caplog.text
