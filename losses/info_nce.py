"""InfoNCE and its denominator over many keys, in chunks: the matrix of logits never exists as a whole."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from losses.byol import unit

# Logits that exist at a time: 64 MiB in float32.
_MAX_ELEMENTS = 2**24


class Contrast(NamedTuple):
    loss: Tensor  # scalar
    top1: Tensor  # scalar in [0, 1] where the weights' sum is one


def info_nce(
    queries: Tensor, positives: Tensor, negatives: Tensor, *, temperature: float, weight: Tensor | None = None
) -> Contrast:
    """Cross-entropy of telling each query's own key from the keys that all queries share.

    Args:
        queries: (R, D), of any length; gradients flow here.
        positives: (R, D) unit vectors, each query's own key.
        negatives: (K, D) unit vectors. A positive may stand among them too. Without gradient, they may be overwritten
            before the backward pass, as a queue is.
        temperature: > 0.
        weight: (R,), >= 0; by default 1 / R each, which gives the mean. Zero drops a query, whose numbers must be finite all
            the same.
    Returns:
        `loss`: the weighted sum of cross-entropies, exactly 0 with zero gradient where every weight is zero. `top1`: the
        weighted sum, without gradient, of queries whose own key is no less similar than any negative; where it is itself
        among them, rounding decides.
    Source: MoCo (He et al., 2020), equation 1; CPC, equation 4.
    """
    if weight is None:
        weight = queries.new_full((len(queries),), 1 / len(queries), dtype=positives.dtype)
    queries = unit(queries)
    own = (queries * positives).sum(-1) / temperature
    others, largest = _LogSumExp.apply(queries, negatives, temperature, None, None, _MAX_ELEMENTS)
    correct = (own.detach() >= largest).to(weight.dtype)
    return Contrast((weight * (torch.logaddexp(own, others) - own)).sum(), (weight * correct).sum())


def log_sum_exp(
    queries: Tensor,
    keys: Tensor,
    *,
    temperature: float,
    excluded_columns: Tensor | None = None,
    excluded: Tensor | None = None,
    max_elements: int = _MAX_ELEMENTS,
) -> Tensor:
    """Logarithm of the sum of exp(query . key / temperature) over keys.

    Args:
        queries: (R, D) float32 or float64, usually unit vectors; gradients flow here.
        keys: (K, D) in the queries' type; gradients flow here too if it requires them, at the cost of a second pass.
        temperature: > 0.
        excluded_columns: (R, E) int64 in [0, K), keys that each row may leave out; a key may stand there more than once.
        excluded: (R, E) bool, which of them it leaves out.
        max_elements: logits that exist at a time; one row of them is the least.
    Returns:
        (R,). A row that leaves out every key has an empty sum: it gives 0, without gradient, so that it stays finite and
        a weight of zero can drop it.
    Source: CPC (van den Oord et al., 2018), equation 4. What the gradient of a query needs, the mean of the keys under its
    softmax, is a row of D numbers: the forward pass keeps that instead of the logits.
    """
    assert (excluded_columns is None) == (excluded is None), "excluded pairs need columns and marks"
    return _LogSumExp.apply(queries, keys, temperature, excluded_columns, excluded, max_elements)[0]


class _LogSumExp(torch.autograd.Function):
    """(R,) logarithms of the sums of exponentials, and (R,) largest logits, these without gradient."""

    @staticmethod
    def forward(ctx, queries, keys, temperature, columns, excluded, max_elements):
        result, largest = queries.new_empty(len(queries)), queries.new_empty(len(queries))
        mean_key = torch.empty_like(queries) if ctx.needs_input_grad[0] else None
        # A chunk of logits gets no name here: it would live on while the next one is made.
        for rows in _chunks(len(queries), len(keys), max_elements):
            weights, total, largest[rows] = _exponentials(_logits(queries, keys, temperature, columns, excluded, rows))
            result[rows] = total.log() + _finite(largest[rows])
            if ctx.needs_input_grad[0]:
                mean_key[rows] = _matmul(weights, keys) / total[:, None]
            del weights
        # Keys without gradient are not needed again: their owner may overwrite them.
        kept = (keys, columns, excluded) if ctx.needs_input_grad[1] else (None, None, None)
        ctx.save_for_backward(queries, *kept, result, mean_key)
        ctx.temperature, ctx.max_elements = temperature, max_elements
        ctx.mark_non_differentiable(largest)
        return result, largest

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient, _):
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


def _exponentials(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of (r, K) logits, which it overwrites: exp(logits - largest), its (r,) sums, and the (r,) largest."""
    largest = logits.amax(1)
    weights = logits.sub_(_finite(largest)[:, None]).exp_()
    total = weights.sum(1)
    return weights, torch.where(total > 0, total, 1), largest


def _finite(largest: Tensor) -> Tensor:
    # Where every key is left out, -inf - -inf would be nan.
    return torch.where(largest.isinf(), 0, largest)


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    # Autocast would round the logits, and with them the softmax, to half precision.
    with torch.autocast(a.device.type, enabled=False):
        return a @ b
