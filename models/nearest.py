"""Nearest neighbours among many features, exactly, a block of them at a time."""

import torch
from torch import Tensor

# Candidates beyond those asked for: rounding in a fast matrix product must not push a neighbour out.
_SPARE = 8


class NearestRows:
    """The rows of a bank with the largest inner products, while the bank comes block by block.

    Attributes:
        values: (Q, C) inner products of those found so far, largest first; C is `count`, or fewer while there are no more rows.
        places: (Q, C) int64, where they are in the bank; of equal ones the lower place comes first.

    Args:
        queries: (Q, D). One that is not finite has no neighbour: its values are not finite.
        own: (Q,) int64 place of each query in the bank, whose value is -inf; -1 where it is not there. None: it never is.
        count: rows to find for a query.
    """

    def __init__(self, queries: Tensor, *, own: Tensor | None = None, count: int):
        self._queries, self._count, self._start = queries, count, 0
        self._own = torch.full((len(queries),), -1, device=queries.device) if own is None else own
        self.values = queries.new_empty(len(queries), 0)
        self.places = self._own.new_empty(len(queries), 0)

    @torch.no_grad()
    def add(self, rows: Tensor) -> None:
        """The bank's next (P, D) rows; those that are not finite have the value -inf."""
        similarity = _similarity(self._queries, rows, self._own - self._start)
        best = top_places(similarity, min(self._count, similarity.shape[1]))
        # Places of earlier blocks are lower, and stand first.
        values = torch.cat([self.values, similarity.gather(1, best)], dim=1)
        places = torch.cat([self.places, best + self._start], dim=1)
        kept = top_places(values, min(self._count, values.shape[1]))
        self.values, self.places = values.gather(1, kept), places.gather(1, kept)
        self._start += len(rows)


@torch.no_grad()
def nearest(queries: Tensor, bank: Tensor, *, own: Tensor, count: int, block: int) -> Tensor:
    """The features of a bank with the largest inner products, by brute force.

    Products in the queries' precision choose some more candidates than asked for, and products in float64 order them: rounding,
    which changes with blocks and devices, decides nothing unless more than the spare ones lie within it.

    Args:
        queries: (Q, D) unit vectors for cosine similarity, else of any length. One that is not finite has no neighbour.
        bank: (N, D) like the queries. Rows that are not finite, such as an unreadable image's, are nobody's neighbour.
        own: (Q,) int64 place of each query in the bank, which is left out; -1 where it is not there.
        count: neighbours a query.
        block: rows of the bank compared at a time; beyond the inputs some 8 Q (block + 2 D count) bytes are needed.
    Returns:
        (Q, count) int64 places in the bank, nearest first, ties to the lower place; -1 where too few are left.
    Source: ORL, the released tools/coco_knn_image_retrieval.ipynb. Differs: that drops whatever comes first as the image
    itself, which with duplicates may be another.
    """
    found = NearestRows(queries, own=own, count=count + _SPARE)
    for start in range(0, len(bank), block):
        found.add(bank[start : start + block])
    # Nothing about a query that is not finite is, and -inf marks what must not be chosen.
    ordered = _order(queries, bank, found.places, found.values.isfinite())[:, :count]
    return torch.cat([ordered, ordered.new_full((len(queries), count - ordered.shape[1]), -1)], dim=1)


def _similarity(queries: Tensor, rows: Tensor, own: Tensor) -> Tensor:
    """(Q, P) inner products with P rows of the bank; -inf with the query's own and with those that are not finite."""
    similarity = queries @ rows.T
    similarity.masked_fill_(~rows.isfinite().all(-1), -torch.inf)
    here = ((own >= 0) & (own < len(rows))).nonzero().flatten()
    similarity[here, own[here]] = -torch.inf
    return similarity


def _order(queries: Tensor, bank: Tensor, places: Tensor, valid: Tensor) -> Tensor:
    """Candidates (Q, C) by their products in float64, largest first, ties to the lower place; -1 behind the valid ones."""
    places = places.where(valid, len(bank)).sort(dim=1).values
    valid = places < len(bank)
    candidates = bank[places.clamp(max=len(bank) - 1)].double()
    exact = (candidates.mul_(queries.double()[:, None])).sum(-1).masked_fill(~valid, -torch.inf)
    return places.where(valid, -1).gather(1, exact.argsort(dim=1, descending=True, stable=True))


def top_places(similarity: Tensor, count: int) -> Tensor:
    """Where the largest numbers of each row are, which `torch.topk` leaves open where some are equal.

    Args:
        similarity: (..., P).
        count: at most P.
    Returns:
        (..., count) int64, largest first, ties to the lower place.
    """
    rows = similarity.flatten(0, -2) if similarity.ndim > 1 else similarity[None]
    values, places = rows.topk(min(count + 1, rows.shape[1]), dim=1)
    if 0 < count < rows.shape[1]:
        # The last that is in and the first that is out are equal: which of their equals are in must be decided.
        tied = (values[:, count - 1] == values[:, count]).nonzero().flatten()
        if len(tied):
            places[tied, :count] = _lowest_of_equals(rows[tied], values[tied, count - 1 : count], count)
    places = places[:, :count].sort(dim=1).values
    order = rows.gather(1, places).argsort(dim=1, descending=True, stable=True)
    return places.gather(1, order).view(*similarity.shape[:-1], count)


def _lowest_of_equals(rows: Tensor, border: Tensor, count: int) -> Tensor:
    """(R, count) places, ascending, of what exceeds each row's border and of as many of the first that equal it as fit."""
    above = ~(rows <= border)
    equal = rows == border
    fits = equal & (equal.cumsum(1, dtype=torch.int32) <= count - above.sum(1, keepdim=True))
    return (above | fits).nonzero()[:, 1].view(len(rows), count)
