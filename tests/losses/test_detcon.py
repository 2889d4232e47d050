import math

import numpy as np
import pytest
import torch

from losses.byol import unit
from losses.detcon import detcon_loss, matched_share
from tests.losses.allocations import Allocations
from tests.paths import REFERENCE

CASES = ("main", "small", "nomatch", "allsame")


def load(name: str) -> dict[str, torch.Tensor]:
    with np.load(REFERENCE / name) as arrays:
        return {key: torch.as_tensor(arrays[key]) for key in arrays.files if arrays[key].dtype.kind in "fi"}


def by_view(x: torch.Tensor) -> torch.Tensor:
    """All images' first views, then all their second, (2 B, ...) -> (B, 2, ...)."""
    return x.unflatten(0, (2, -1)).transpose(0, 1)


@pytest.fixture(scope="module")
def released() -> dict[str, torch.Tensor]:
    return load("detcon_loss.npz")


@pytest.fixture(scope="module")
def deepmind() -> dict[str, torch.Tensor]:
    return load("deepmind_detcon_loss.npz")


def inputs_of(released, case):
    prediction, target, ids, target_ids = (
        by_view(released[f"{case}_{name}"]) for name in ("pred", "target", "pind", "tind")
    )
    arguments = {"ids": ids, "target_ids": target_ids, "temperature": released[f"{case}_temperature"].item()}
    return prediction.clone().requires_grad_(), unit(target), arguments


def assert_close(loss, gradient, theirs, their_gradient):
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5, abs=1e-12)
    their_gradient = by_view(their_gradient)
    assert (gradient - their_gradient).abs().max() <= 1e-5 * their_gradient.abs().max()


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_match_the_release_and_deepminds(released, deepmind, case):
    prediction, targets, arguments = inputs_of(released, case)
    loss = detcon_loss(prediction, targets, **arguments)
    loss.backward()
    for reference in (released, deepmind):
        assert_close(loss, prediction.grad, reference[f"{case}_loss"], reference[f"{case}_grad_pred"])


@pytest.mark.parametrize("case", CASES)
def test_loss_without_local_negatives_matches_deepminds(released, deepmind, case):
    prediction, targets, arguments = inputs_of(released, case)
    loss = detcon_loss(prediction, targets, local_negatives=False, **arguments)
    assert loss.item() == pytest.approx(deepmind[f"{case}_loss_no_local_negatives"].item(), rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_gradient_through_both_sides_matches_deepminds_loss(released, deepmind, case):
    projection, _, arguments = inputs_of(released, case)
    arguments["target_ids"] = arguments["ids"]
    loss = detcon_loss(projection, unit(projection), **arguments)
    loss.backward()
    assert_close(loss, projection.grad, deepmind[f"{case}_derived_s_loss"], deepmind[f"{case}_derived_s_grad"])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_ranks_loss_and_gradient_match_two_processes_of_the_release(deepmind, rank):
    reference = load("detcon_loss_world2.npz")
    targets = torch.cat([unit(by_view(target)) for target in reference["target"]])
    prediction = by_view(reference["pred"][rank]).clone().requires_grad_()
    ids, target_ids = by_view(reference["pind"][rank]), by_view(reference["tind"][rank])
    temperature = reference["temperature"].item()
    loss = detcon_loss(prediction, targets, ids, target_ids, temperature=temperature, offset=rank * len(prediction))
    loss.backward()
    assert_close(loss, prediction.grad, reference["loss"][rank], reference["grad_pred"][rank])
    assert_close(loss, prediction.grad, deepmind["world2_loss"][rank], deepmind["world2_grad_pred"][rank])


def cyborgs_inputs(arrays: dict) -> tuple[torch.Tensor, ...]:
    """(B, 2, ...) predictions, unit targets and ids of either, from one array a view."""
    pairs = (
        torch.stack([arrays[f"{name}1"], arrays[f"{name}2"]], dim=1) for name in ("pred", "target", "pind", "tind")
    )
    prediction, target, *both_ids = pairs
    return prediction.requires_grad_(), unit(target), *both_ids


def cyborgs_gradient(arrays: dict) -> torch.Tensor:
    return torch.cat([arrays["grad_pred1"], arrays["grad_pred2"]])


@pytest.mark.parametrize("prefix, local_negatives", [("", True), ("no_local_negatives_", False)])
def test_loss_and_gradient_match_cyborgs_release(prefix, local_negatives):
    reference = load("cyborgs_loss.npz")
    theirs = {key: reference[prefix + key] for key in ("loss", "grad_pred1", "grad_pred2")}
    prediction, *others = cyborgs_inputs(reference)
    loss = detcon_loss(
        prediction, *others, temperature=reference["temperature"].item(), local_negatives=local_negatives
    )
    loss.backward()
    assert_close(loss, prediction.grad, theirs["loss"], cyborgs_gradient(theirs))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_ranks_loss_and_gradient_match_two_processes_of_cyborgs_release(rank):
    reference = load("cyborgs_loss.npz")
    world = {key.removeprefix("world2_"): value for key, value in reference.items() if key.startswith("world2_")}
    ranks = [{key: value[r] for key, value in world.items()} for r in (0, 1)]
    targets = torch.cat([cyborgs_inputs(arrays)[1] for arrays in ranks])
    prediction, _, *both_ids = cyborgs_inputs(ranks[rank])
    temperature = reference["temperature"].item()
    loss = detcon_loss(prediction, targets, *both_ids, temperature=temperature, offset=rank * len(prediction))
    loss.backward()
    assert_close(loss, prediction.grad, ranks[rank]["loss"], cyborgs_gradient(ranks[rank]))


def random_case(*, views=2, images=6, regions=4, channels=5, kinds=4):
    shape = (images, views, regions)
    prediction, target = (torch.randn(*shape, channels, dtype=torch.float64) for _ in range(2))
    ids, target_ids = (torch.randint(0, kinds, shape) for _ in range(2))
    return prediction, unit(target), ids, target_ids


def slow_loss(prediction, targets, ids, target_ids, *, temperature, offset, local_negatives):
    """Equation 3 one pair at a time."""
    B, V, M, _ = prediction.shape
    total = 0.0
    for b, v, m in np.ndindex(B, V, M):
        query = prediction[b, v, m] / prediction[b, v, m].norm()
        positives, denominator = [], 0.0
        for g, w, n in np.ndindex(*targets.shape[:3]):
            logit = float(query @ targets[g, w, n]) / temperature
            own_image = g == b + offset
            same = own_image and ids[b, v, m] == target_ids[b, w, n]
            if same and w != v:
                positives.append(logit)
            elif same or (own_image and not local_negatives):
                continue
            denominator += math.exp(logit)
        copies = sum(ids[b, v, k] == ids[b, v, m] for k in range(M))
        if positives:
            total += (math.log(denominator) - sum(positives) / len(positives)) / float(copies)
    return total / (B * M)


@pytest.mark.parametrize("local_negatives", [True, False])
@pytest.mark.parametrize("views", [2, 3])
def test_loss_equals_a_slow_double_loop(views, local_negatives):
    prediction, targets, ids, target_ids = random_case(views=views)
    options = {"temperature": 0.2, "offset": 3, "local_negatives": local_negatives}
    mine = (prediction[:3], targets, ids[:3], target_ids[:3])
    assert detcon_loss(*mine, **options).item() == pytest.approx(slow_loss(*mine, **options), rel=1e-10)


def test_gradients_are_those_of_finite_differences():
    prediction, targets, ids, target_ids = random_case(images=3, regions=3)
    pair = prediction[1:].clone().requires_grad_(), targets.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p, t: detcon_loss(p, t, ids[1:], target_ids[1:], temperature=0.3, offset=1), pair, fast_mode=True
    )


def test_the_mean_over_ranks_is_the_loss_and_gradient_of_one():
    prediction, targets, *both_ids = random_case()
    leaves = prediction.requires_grad_(), targets.requires_grad_()
    whole = detcon_loss(*leaves, *both_ids, temperature=0.1)
    parts = [
        detcon_loss(prediction[r : r + 2], targets, *(ids[r : r + 2] for ids in both_ids), temperature=0.1, offset=r)
        for r in (0, 2, 4)
    ]
    mean = sum(parts) / 3
    assert mean.item() == pytest.approx(whole.item(), rel=1e-12)
    for ours, theirs in zip(torch.autograd.grad(mean, leaves), torch.autograd.grad(whole, leaves)):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_numbers_of_regions_do_not_matter():
    prediction, targets, ids, target_ids = random_case()
    names = torch.stack([torch.randperm(1000)[:4] for _ in ids])
    renamed = [torch.gather(names, 1, x.flatten(1)).view_as(x) for x in (ids, target_ids)]
    before = detcon_loss(prediction, targets, ids, target_ids, temperature=0.1)
    assert torch.equal(detcon_loss(prediction, targets, *renamed, temperature=0.1), before)


def test_the_order_of_images_views_and_regions_does_not_matter():
    case = random_case()
    before = detcon_loss(*case, temperature=0.1)
    images, regions = torch.randperm(6), torch.randperm(4)
    for shuffled in ([x[images] for x in case], [x.flip(1) for x in case], [x[:, :, regions] for x in case]):
        assert detcon_loss(*shuffled, temperature=0.1).item() == pytest.approx(before.item(), rel=1e-12)


def test_no_region_matched_gives_zero_loss_and_gradient():
    prediction, targets, ids, _ = random_case()
    prediction.requires_grad_(), targets.requires_grad_()
    for local_negatives in (True, False):
        loss = detcon_loss(prediction, targets, ids, ids + 4, temperature=0.1, local_negatives=local_negatives)
        gradients = torch.autograd.grad(loss, (prediction, targets))
        assert loss.item() == 0
        assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)


def test_a_single_region_leaves_the_entropy_of_its_label():
    region = torch.ones(1, 2, 3, 4)
    ids = torch.zeros(1, 2, 3, dtype=torch.long)
    # Three equal positives and no negative: log 3 in each of two views, weighed by a third for three copies.
    loss = detcon_loss(region, unit(region), ids, ids, temperature=0.1)
    assert loss.item() == pytest.approx(2 * math.log(3) / 3, rel=1e-6)


def test_autocast_and_low_precision_predictions_are_compared_in_float32():
    prediction, targets, *both_ids = random_case()
    prediction, targets = prediction.bfloat16(), targets.float()
    plain = detcon_loss(prediction.float(), targets, *both_ids, temperature=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = detcon_loss(prediction, targets, *both_ids, temperature=0.1)
    assert loss.dtype == torch.float32 and loss.item() == plain.item()


def test_one_step_of_128_processes_holds_128_rows_of_logits_at_a_time():
    # 4,096 gathered images as in the docstring, of which this process has 8: 256 rows, in two chunks.
    targets = unit(torch.randn(4096, 2, 16, 2))
    prediction, ids = torch.randn(8, 2, 16, 2, requires_grad=True), torch.randint(0, 9, (8, 2, 16))
    with Allocations() as step:
        detcon_loss(prediction, targets, ids, ids, temperature=0.1, offset=4088).backward()
    assert max(step.sizes) == 128 * 131_072
    assert step.sizes.count(128 * 131_072) == 2 and step.peak < 1.1 * 128 * 131_072


def test_matched_share_counts_regions_that_the_other_view_shows():
    ids = torch.tensor([[[0, 1, 1, 5], [1, 2, 3, 3]]])
    assert matched_share(ids, ids).item() == 3 / 8
    target_ids = torch.tensor([[[2, 2, 2, 2], [0, 0, 0, 0]]])
    assert matched_share(ids, target_ids).item() == 2 / 8
