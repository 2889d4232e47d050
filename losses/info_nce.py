"""InfoNCE's denominator over many keys, in chunks: the matrix of logits never exists as a whole."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def log_sum_exp(
    queries: Tensor,
    keys: Tensor,
    *,
    temperature: float,
    excluded_columns: Tensor | None = None,
    excluded: Tensor | None = None,
    max_elements: int = 2**24,
) -> Tensor:
    """Logarithm of the sum of exp(query . key / temperature) over keys.

    Args:
        queries: (R, D) float32 or float64, usually unit vectors; gradients flow here.
        keys: (K, D) in the queries' type; gradients flow here too if it requires them, at the cost of a second pass.
        temperature: > 0.
        excluded_columns: (R, E) int64 in [0, K), keys that each row may leave out; a key may stand there more than once.
        excluded: (R, E) bool, which of them it leaves out.
        max_elements: logits that exist at a time: 2^24 of them are 64 MiB in float32. One row is the least.
    Returns:
        (R,). A row that leaves out every key has an empty sum: it gives 0, without gradient, so that it stays finite and
        a weight of zero can drop it.
    Source: CPC (van den Oord et al., 2018), equation 4. What the gradient of a query needs, the mean of the keys under its
    softmax, is a row of D numbers: the forward pass keeps that instead of the logits.
    """
    assert (excluded_columns is None) == (excluded is None), "excluded pairs need columns and marks"
    return _LogSumExp.apply(queries, keys, temperature, excluded_columns, excluded, max_elements)


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, queries, keys, temperature, columns, excluded, max_elements):
        result, mean_key = queries.new_empty(len(queries)), torch.empty_like(queries)
        # A chunk of logits gets no name here: it would live on while the next one is made.
        for rows in _chunks(len(queries), len(keys), max_elements):
            result[rows], mean_key[rows] = _reduce(_logits(queries, keys, temperature, columns, excluded, rows), keys)
        ctx.save_for_backward(queries, keys, columns, excluded, result, mean_key)
        ctx.temperature, ctx.max_elements = temperature, max_elements
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        queries, keys, columns, excluded, result, mean_key = ctx.saved_tensors
        gradient = gradient[:, None] / ctx.temperature
        to_queries = gradient * mean_key if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return to_queries, None, None, None, None, None
        to_keys = torch.zeros_like(keys)
        for rows in _chunks(len(queries), len(keys), ctx.max_elements):
            softmax = _logits(queries, keys, ctx.temperature, columns, excluded, rows).sub_(result[rows, None]).exp_()
            to_keys.addmm_(softmax.T, gradient[rows] * queries[rows])
            del softmax
        return to_queries, to_keys, None, None, None, None


def _chunks(num_rows: int, num_keys: int, max_elements: int) -> list[slice]:
    step = max(1, max_elements // num_keys)
    return [slice(start, start + step) for start in range(0, num_rows, step)]


def _logits(
    queries: Tensor, keys: Tensor, temperature: float, columns: Tensor | None, excluded: Tensor | None, rows: slice
) -> Tensor:
    logits = _matmul(queries[rows] / temperature, keys.T)
    if columns is not None:
        # Adding rather than setting: a key that stands twice among a row's columns is left out if either mark says so.
        logits.scatter_add_(1, columns[rows], torch.where(excluded[rows], -torch.inf, 0.0).to(logits.dtype))
    return logits


def _reduce(logits: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Of (r, K) logits, which it overwrites: (r,) logarithms of the sums of exponentials, and (r, D) means of keys."""
    top = logits.amax(1, keepdim=True)
    # Where every key is left out, -inf - -inf would be nan.
    top = torch.where(top.isinf(), 0, top)
    weights = logits.sub_(top).exp_()
    total = weights.sum(1, keepdim=True)
    total = torch.where(total > 0, total, 1)
    return (total.log() + top).squeeze(1), _matmul(weights, keys) / total


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    # Autocast would round the logits, and with them the softmax, to half precision.
    with torch.autocast(a.device.type, enabled=False):
        return a @ b
