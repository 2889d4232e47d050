import pytest
import torch
import torch.nn.functional as F

from losses.info_nce import log_sum_exp
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
