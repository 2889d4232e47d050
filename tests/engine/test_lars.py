from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from engine.lars import LARS, LARS_VARIANTS, parameter_groups
from engine.optimizers import build_optimizer

REFERENCE = Path(__file__).parents[1] / "reference"


def follow(reference, *, excluded, frozen, variant, hyper):
    """Replay a recorded run; yields (name, parameter, buffer or None, step) after each step."""
    params = {str(n): nn.Parameter(torch.from_numpy(reference[f"init/{n}"])) for n in reference["names"]}
    groups = [
        {"params": [p for n, p in params.items() if n not in excluded and n not in frozen], "lars_exclude": False},
        {"params": [p for n, p in params.items() if n in excluded], "lars_exclude": True},
    ]
    settings = {"momentum": float(reference[f"h{hyper}_momentum"]), "weight_decay": float(reference[f"h{hyper}_wd"])}
    optimizer = LARS(groups, lr=0.0, variant=variant, **settings)
    for step, rate in enumerate(reference[f"h{hyper}_lr"].tolist()):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, parameter in params.items():
            key = f"h{hyper}/s{step}/grad/{name}"
            known = key in reference and f"h{hyper}/s{step}/buf/{name}" in reference
            parameter.grad = torch.from_numpy(reference[key]) if known else None
        optimizer.step()
        for name, parameter in params.items():
            yield name, parameter.detach(), optimizer.state[parameter].get("momentum_buffer"), step


def assert_follows(reference, **options):
    hyper = options["hyper"]
    for name, parameter, buffer, step in follow(reference, **options):
        where = f"{name} after step {step}"
        expected = reference[f"h{hyper}/s{step}/param/{name}"]
        np.testing.assert_allclose(parameter.numpy(), expected, rtol=2e-6, atol=1e-7, err_msg=where)
        key = f"h{hyper}/s{step}/buf/{name}"
        assert (buffer is not None) == (key in reference), where
        if buffer is not None:
            np.testing.assert_allclose(buffer.numpy(), reference[key], rtol=1e-5, atol=1e-8, err_msg=where)


@pytest.mark.parametrize("hyper", [0, 1])
def test_the_released_variant_follows_r2os_trajectories(hyper):
    reference = np.load(REFERENCE / "r2o_lars.npz")
    excluded = set(reference["names"][reference["lars_exclude"]].tolist())
    assert_follows(reference, excluded=excluded, frozen=set(), variant="released", hyper=hyper)


@pytest.mark.parametrize("hyper", [0, 1])
def test_the_cyborgs_variant_follows_cyborgs_trajectories(hyper):
    reference = np.load(REFERENCE / "cyborgs_lars.npz")
    excluded, frozen = (set(reference["names"][reference["ignore"] == flag].tolist()) for flag in (1, -1))
    assert_follows(reference, excluded=excluded, frozen=frozen, variant="cyborgs", hyper=hyper)


def slow_step(weight, gradient, buffer, *, variant, nesterov, rate, momentum=0.9, decay=0.01, eta=0.001):
    """One tensor, written out from the definitions."""
    update = gradient + decay * weight
    if variant == "released":
        norm = gradient.norm() + decay * weight.norm()
    else:
        norm = update.norm()
    if weight.norm() > 0 and norm > 0:
        update = update * (eta * weight.norm() / (norm + (1e-8 if variant == "cyborgs" else 0)))
    if variant == "released":
        update = rate * update
    buffer = momentum * buffer + update
    move = update + momentum * buffer if nesterov else buffer
    return weight - (move if variant == "released" else rate * move), buffer


@pytest.mark.parametrize("variant", LARS_VARIANTS)
@pytest.mark.parametrize("nesterov", [False, True])
def test_every_variant_is_a_slow_loop_over_tensors(variant, nesterov):
    generator = torch.Generator().manual_seed(0)

    def draw(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    # The second starts at zero; the third's gradient stays zero.
    weights = [draw(3, 4), torch.zeros(5, dtype=torch.float64), draw(6)]
    params = [nn.Parameter(weight.clone()) for weight in weights]
    buffers = [torch.zeros_like(weight) for weight in weights]
    optimizer = LARS(params, lr=0.0, weight_decay=0.01, variant=variant, nesterov=nesterov)
    for rate in (0.1, 0.3, 0.2):
        optimizer.param_groups[0]["lr"] = rate
        gradients = [draw(3, 4), draw(5), torch.zeros(6, dtype=torch.float64)]
        for i, (parameter, gradient) in enumerate(zip(params, gradients)):
            parameter.grad = gradient.clone()
            weights[i], buffers[i] = slow_step(
                weights[i], gradient, buffers[i], variant=variant, nesterov=nesterov, rate=rate
            )
        optimizer.step()
        for parameter, weight in zip(params, weights):
            torch.testing.assert_close(parameter.detach(), weight, rtol=1e-12, atol=1e-14)
        assert all(torch.equal(parameter.grad, gradient) for parameter, gradient in zip(params, gradients))


def test_excluded_parameters_are_neither_decayed_nor_scaled():
    parameter = nn.Parameter(torch.tensor([2.0, 4.0]))
    optimizer = LARS([{"params": [parameter], "lars_exclude": True}], lr=0.5, momentum=0.0, weight_decay=10.0)
    parameter.grad = torch.tensor([1.0, -1.0])
    optimizer.step()
    assert parameter.tolist() == [1.5, 4.5]
    assert parameter.grad.tolist() == [1.0, -1.0]


def test_a_resumed_optimiser_takes_the_same_steps():
    def train(steps, state=None, start=((1.0, 2.0),)):
        parameter = nn.Parameter(torch.tensor(start))
        optimizer = LARS([parameter], lr=0.1, weight_decay=0.1)
        if state:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            parameter.grad = parameter.detach() ** 2
            optimizer.step()
        return parameter.detach(), optimizer.state_dict()

    whole, _ = train(4)
    half, state = train(2)
    resumed, _ = train(2, state, half.tolist())
    assert torch.equal(resumed, whole)


def test_an_unknown_variant_names_the_valid_ones():
    with pytest.raises(ValueError, match="released, deepmind, cyborgs"):
        LARS([nn.Parameter(torch.ones(1))], lr=0.1, variant="apex")


class ReleasedNames(nn.Module):
    """R2O's online network and predictor under the release's parameter names, without storage."""

    def __init__(self):
        super().__init__()
        self.online_network = nn.Module()
        self.online_network.encoder = nn.Sequential(*list(torchvision.models.resnet50().children())[:-2])
        self.online_network.projetion = mlp(2048)
        self.predictor = nn.Module()
        self.predictor.predictor = mlp(256)


def mlp(width):
    module = nn.Module()
    module.l1, module.bn1, module.l2 = nn.Linear(width, 4096), nn.BatchNorm1d(4096), nn.Linear(4096, 256)
    return module


@pytest.fixture(scope="module")
def released_network():
    with torch.device("meta"):
        return ReleasedNames()


def excluded_names(module, **options):
    groups = parameter_groups(module, weight_decay=1e-6, exclude_bias_and_bn=True, **options)
    assert [(group["weight_decay"], group["lars_exclude"]) for group in groups] == [(1e-6, False), (0.0, True)]
    excluded = {id(p) for p in groups[1]["params"]}
    assert not excluded & {id(p) for p in groups[0]["params"]}
    assert sum(len(group["params"]) for group in groups) == len(list(module.parameters()))
    return {name for name, p in module.named_parameters() if id(p) in excluded}


def released_excluded_names():
    lines = (REFERENCE / "keys" / "r2o_param_groups.txt").read_text().splitlines()[1:]
    return {name for name, flag in (line.split("\t") for line in lines) if flag == "True"}


def test_decay_stem_norm_gives_the_releases_parameter_groups(released_network):
    assert excluded_names(released_network, decay_stem_norm=True) == released_excluded_names()


def test_by_default_the_stems_scale_is_excluded_as_every_norm_is(released_network):
    assert excluded_names(released_network) - released_excluded_names() == {"online_network.encoder.1.weight"}


def test_norm_layers_of_every_kind_are_found_by_type():
    norms = [nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.SyncBatchNorm(4)]
    net = nn.Sequential(nn.Linear(4, 4), *norms, nn.Conv1d(4, 4, 1, bias=False))
    assert excluded_names(net) == {"0.bias", "1.weight", "1.bias", "2.weight", "2.bias", "3.weight", "3.bias"}


def test_without_exclusion_there_is_one_decayed_group_and_frozen_parameters_are_left_out():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    net[0].weight.requires_grad_(False)
    (group,) = parameter_groups(net, weight_decay=0.1, exclude_bias_and_bn=False)
    assert (len(group["params"]), group["weight_decay"], group["lars_exclude"]) == (3, 0.1, False)


@pytest.mark.parametrize("type, kind", [("lars", LARS), ("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_every_named_optimiser_takes_the_groups_and_waits_for_a_rate(type, kind):
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = build_optimizer(parameter_groups(net, weight_decay=0.1, exclude_bias_and_bn=True), type=type)
    assert isinstance(optimizer, kind)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.0, 0.1), (0.0, 0.0)]


def test_an_unknown_optimiser_names_the_valid_ones():
    with pytest.raises(ValueError, match="'lamb'.*lars, sgd, adamw"):
        build_optimizer([{"params": [nn.Parameter(torch.ones(1))]}], type="lamb")
