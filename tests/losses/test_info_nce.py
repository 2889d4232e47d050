import pytest
import torch
import torch.nn.functional as F

from losses.byol import unit
from losses.info_nce import Contrast, info_nce, log_sum_exp
from tests.losses.allocations import Allocations

R, K, D, E = 12, 30, 5, 4


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries, keys = (F.normalize(torch.randn(n, D, generator=generator).double(), dim=1) for n in (R, K))
    # Few enough columns that some stand twice in a row with different marks.
    columns = torch.randint(0, 6, (R, E), generator=generator)
    excluded = torch.rand(R, E, generator=generator) < 0.5
    return {"queries": queries, "keys": keys, "excluded_columns": columns, "excluded": excluded}


def whole_matrix(queries, keys, *, temperature, excluded_columns, excluded):
    """The plain computation, pair by pair where keys are left out."""
    logits = queries @ keys.T / temperature
    left_out = torch.zeros_like(logits, dtype=torch.bool)
    for row in range(len(queries)):
        for column, mark in zip(excluded_columns[row].tolist(), excluded[row].tolist()):
            left_out[row, column] |= mark
    return logits.masked_fill(left_out, -torch.inf).logsumexp(1)


@pytest.mark.parametrize("max_elements", [1, 100, 10**6])
def test_result_and_gradients_equal_the_whole_matrix_for_any_chunk(inputs, max_elements):
    leaves = [inputs[name].requires_grad_() for name in ("queries", "keys")]
    gradient = torch.randn(R, dtype=torch.float64)
    results = [
        log_sum_exp(**inputs, temperature=0.1, max_elements=max_elements),
        whole_matrix(**inputs, temperature=0.1),
    ]
    ours, theirs = ([result, *torch.autograd.grad(result, leaves, gradient)] for result in results)
    for a, b in zip(ours, theirs):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_finite_differences(inputs):
    inputs["excluded"][3] = True
    pair = inputs.pop("queries").requires_grad_(), inputs.pop("keys").requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q, k: log_sum_exp(q, k, temperature=0.3, max_elements=64, **inputs), pair, fast_mode=True
    )


def test_without_exclusions_it_is_the_logarithm_of_the_sum_over_all_keys(inputs):
    queries, keys = inputs["queries"], inputs["keys"]
    assert torch.allclose(log_sum_exp(queries, keys, temperature=0.2), (queries @ keys.T / 0.2).logsumexp(1))


def test_a_row_that_leaves_out_every_key_gives_zero_without_gradient():
    queries, keys = torch.randn(3, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    columns, excluded = torch.tensor([[0, 1]] * 3), torch.tensor([[True, False], [True, True], [False, False]])
    result = log_sum_exp(queries, keys, temperature=0.1, excluded_columns=columns, excluded=excluded)
    result.sum().backward()
    assert result[1].item() == 0 and result.isfinite().all()
    assert torch.equal(queries.grad[1], torch.zeros(4)) and (queries.grad[[0, 2]] != 0).all()
    assert keys.grad.isfinite().all()


def test_a_small_temperature_does_not_overflow():
    queries = torch.eye(3)
    assert torch.allclose(log_sum_exp(queries, queries, temperature=1e-3), torch.full((3,), 1000.0))


def test_autocast_does_not_round_the_logits(inputs):
    queries, keys = inputs["queries"].float(), inputs["keys"].float()
    plain = log_sum_exp(queries, keys, temperature=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(log_sum_exp(queries, keys, temperature=0.1), plain)


@pytest.mark.parametrize("keys_train", [False, True])
def test_one_chunk_of_logits_exists_at_a_time_and_none_for_the_gradient_of_queries(keys_train):
    rows, num_keys, chunk = 64, 512, 8 * 512
    queries, keys = torch.randn(rows, 4, requires_grad=True), torch.randn(num_keys, 4, requires_grad=keys_train)
    columns, excluded = torch.zeros(rows, 1, dtype=torch.long), torch.ones(rows, 1, dtype=torch.bool)
    with Allocations() as forward:
        result = log_sum_exp(
            queries, keys, temperature=0.1, excluded_columns=columns, excluded=excluded, max_elements=chunk
        )
    with Allocations() as backward:
        result.sum().backward()
    assert max(forward.sizes) == chunk and forward.sizes.count(chunk) == rows * num_keys // chunk
    assert backward.sizes.count(chunk) == (rows * num_keys // chunk if keys_train else 0)
    assert max(backward.sizes) <= max(chunk, num_keys * 4)
    assert forward.peak < 1.5 * chunk
    assert backward.peak < chunk * (1.5 + 0.5 * keys_train)


@pytest.fixture
def compared() -> dict[str, torch.Tensor]:
    """Queries of any length near their own keys, so that some find them and some do not."""
    generator = torch.Generator().manual_seed(1)
    positives, negatives, noise = (unit(torch.randn(n, D, generator=generator, dtype=torch.float64)) for n in (R, K, R))
    lengths = 0.1 + 5 * torch.rand(R, 1, generator=generator, dtype=torch.float64)
    return {"queries": lengths * (positives + 0.7 * noise), "positives": positives, "negatives": negatives}


def plain(queries, positives, negatives, *, temperature, weight=None) -> Contrast:
    """Cross-entropy over the whole matrix of logits, the own key first."""
    queries = queries / queries.norm(dim=1, keepdim=True)
    own = torch.stack([query @ key for query, key in zip(queries, positives)])
    logits = torch.cat([own[:, None], queries @ negatives.T], dim=1) / temperature
    weight = torch.full_like(own, 1 / len(queries)) if weight is None else weight
    losses = F.cross_entropy(logits, torch.zeros(len(queries), dtype=torch.long), reduction="none")
    return Contrast((weight * losses).sum(), (weight * (logits.argmax(1) == 0)).sum())


@pytest.mark.parametrize("weight", [None, torch.linspace(0, 3, R, dtype=torch.float64)])
def test_info_nce_is_the_weighted_cross_entropy_of_the_whole_matrix(compared, weight):
    queries = compared["queries"].requires_grad_()
    ours, theirs = (form(**compared, temperature=0.2, weight=weight) for form in (info_nce, plain))
    assert ours.loss.item() == pytest.approx(theirs.loss.item(), rel=1e-12)
    gradients = [torch.autograd.grad(contrast.loss, queries)[0] for contrast in (ours, theirs)]
    assert torch.allclose(*gradients, rtol=1e-10, atol=1e-14)
    share = theirs.top1 / (1 if weight is None else weight.sum())
    assert 0.2 < share < 0.8 and ours.top1.item() == pytest.approx(theirs.top1.item())
    assert not ours.top1.requires_grad


def test_a_negative_as_near_as_the_own_key_leaves_it_first():
    axes = torch.eye(3)
    assert info_nce(axes, axes, axes, temperature=0.2, weight=torch.ones(3)).top1.item() == 3
    assert info_nce(axes, axes.roll(1, 0), axes, temperature=0.2).top1.item() == 0


def test_queries_of_weight_zero_change_nothing(compared):
    weight = torch.ones(R, dtype=torch.float64)
    weight[::3] = 0
    kept = {name: compared[name][weight > 0] for name in ("queries", "positives")}
    alone = info_nce(**kept, negatives=compared["negatives"], temperature=0.2, weight=weight[weight > 0])
    compared["queries"][::3] = 0
    compared["positives"][::3] = 7
    together = info_nce(**compared, temperature=0.2, weight=weight)
    assert together.loss.item() == pytest.approx(alone.loss.item(), rel=1e-12)
    assert together.top1.item() == alone.top1.item()


def test_weights_of_zero_give_zero_loss_and_zero_gradient_and_stay_attached(compared):
    queries = compared["queries"].requires_grad_()
    contrast = info_nce(**compared, temperature=0.2, weight=torch.zeros(R, dtype=torch.float64))
    contrast.loss.backward()
    assert contrast.loss.item() == contrast.top1.item() == 0
    assert torch.equal(queries.grad, torch.zeros_like(queries))


def test_negatives_may_be_overwritten_before_the_backward_pass(compared):
    queries = compared["queries"].requires_grad_()
    (expected,) = torch.autograd.grad(info_nce(**compared, temperature=0.2).loss, queries)
    loss = info_nce(**compared, temperature=0.2).loss
    compared["negatives"].zero_()
    assert torch.equal(torch.autograd.grad(loss, queries)[0], expected)


def test_half_precision_queries_under_autocast_are_compared_in_float32(compared):
    queries, positives, negatives = (tensor.float() for tensor in compared.values())
    queries = queries.bfloat16().requires_grad_()
    plain_contrast = info_nce(queries.float(), positives, negatives, temperature=0.2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        contrast = info_nce(queries, positives, negatives, temperature=0.2)
    assert all(map(torch.equal, contrast, plain_contrast)) and contrast.loss.dtype == torch.float32
    contrast.loss.backward()
    assert queries.grad.dtype == torch.bfloat16 and queries.grad.any()


def test_infonce_never_holds_the_whole_matrix(compared, monkeypatch):
    monkeypatch.setattr("losses.info_nce._MAX_ELEMENTS", 2 * K)
    compared["queries"].requires_grad_()
    with Allocations() as allocations:
        info_nce(**compared, temperature=0.2).loss.backward()
    assert allocations.sizes.count(2 * K) >= R // 2 and max(allocations.sizes) == max(2 * K, R * D)
