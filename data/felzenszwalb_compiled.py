"""The loops of Felzenszwalb and Huttenlocher's segmentation, compiled by numba; `data.felzenszwalb` says what they compute."""

import math
from collections.abc import Callable

import numba
import numpy as np

# Unsigned, or every index would be looked at for a sign.
_TWO, _THREE = np.uint32(2), np.uint32(3)
_KEY = np.uint64(32)


def _kept(function: Callable) -> Callable:
    """Compiled when first called, and kept on disk for later processes."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    # Neither the code's folder nor the user's cache can be written to.
    except RuntimeError:
        return numba.njit(nogil=True, error_model="numpy")(function)


@_kept
def edge_costs(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances between the colours of neighbouring pixels, in the order that scikit-image has them.

    Args:
        image: (H, W, 3) float64, contiguous, H * W < 2**30.
    Returns:
        (E,) float64: all edges to the right, then down, down and right, up and right; each kind row by row. (E,) uint32:
        what each edge joins, 4 * the number of its left or upper pixel + its kind.
    """
    height, width, _ = image.shape
    count = height * (width - 1) + (height - 1) * width + 2 * (height - 1) * (width - 1)
    costs, edges, edge = np.empty(count, dtype=np.float64), np.empty(count, dtype=np.uint32), 0
    # From (row + top, column) to (row + bottom, column + right).
    for kind, (top, bottom, right) in enumerate(((0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 1))):
        for row in range(height - max(top, bottom)):
            for column in range(width - right):
                red = image[row + top, column, 0] - image[row + bottom, column + right, 0]
                green = image[row + top, column, 1] - image[row + bottom, column + right, 1]
                blue = image[row + top, column, 2] - image[row + bottom, column + right, 2]
                # In numpy's order, so that the last digit is the same.
                costs[edge] = math.sqrt((red * red + green * green) + blue * blue)
                edges[edge] = 4 * ((row + top) * width + column) + kind
                edge += 1
    return costs, edges


@_kept
def sort_edges(costs: np.ndarray) -> np.ndarray:
    """(E,) uint32, the places of the (E,) costs by rising cost."""
    # Costs crowd near 0: of their square roots, 32 bits tell nearly all apart.
    factor = (2**32 - 1) / math.sqrt(max(costs.max(), 1e-300)) if len(costs) else 0.0
    rows, counts = np.empty(len(costs), dtype=np.uint64), np.zeros((3, 2048), dtype=np.int64)
    for place in range(len(costs)):
        key = np.uint64(math.sqrt(costs[place]) * factor)
        rows[place] = key << _KEY | np.uint64(place)
        for digit in range(3):
            counts[digit, _digit(rows[place], digit)] += 1
    # A digit at a time, the least first; each pass keeps the order of equal digits.
    others = np.empty_like(rows)
    for digit in range(3):
        starts = np.cumsum(counts[digit]) - counts[digit]
        for row in rows:
            value = _digit(row, digit)
            others[np.uint64(starts[value])] = row
            starts[value] += 1
        rows, others = others, rows
    order, start = rows.astype(np.uint32), 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end] >> _KEY != rows[start] >> _KEY:
            if end - start > 1:
                _sort_part(order, costs, start, end)
            start = end
    return order


@numba.njit(error_model="numpy")
def _digit(row: int, digit: int) -> int:
    return (row >> np.uint64(32 + 11 * digit)) & np.uint64(2047)


@numba.njit(error_model="numpy")
def _sort_part(order: np.ndarray, costs: np.ndarray, start: int, end: int) -> None:
    """Sort order[start:end] by whole costs: mostly one edge, or equal ones; Shell's way, for when it is many others."""
    gap = 1
    while 3 * gap < end - start:
        gap = 3 * gap + 1
    while gap > 0:
        for place in range(start + gap, end):
            edge, hole = order[place], place
            while hole - gap >= start and costs[order[hole - gap]] > costs[edge]:
                order[hole] = order[hole - gap]
                hole -= gap
            order[hole] = edge
        gap //= 3


@_kept
def join_pixels(
    costs: np.ndarray, edges: np.ndarray, order: np.ndarray, height: int, width: int, scale: float, min_size: int
) -> tuple[np.ndarray, bool]:
    """Segments of the graph of pixels, and whether any other order of edges of equal cost would give the same.

    Args:
        costs, edges: (E,), as `edge_costs` gives them.
        order: (E,) uint32, the edges as they are to be looked at, by rising cost.
        scale: what a segment of one pixel tolerates, in units of `costs`.
        min_size: pixels; smaller segments are joined to the neighbour that comes first in `order`.
    Returns:
        (H * W,) int64 labels, dense from 0, numbered by each segment's first pixel; False where the order may matter.
    """
    parents, sizes = np.arange(height * width).astype(np.uint32), np.ones(height * width, dtype=np.uint32)
    # Of a segment: its largest inner cost and its tolerance on top. scikit-image compares them in 32 bits.
    bounds = np.full(height * width, scale).astype(np.float32)
    steps = np.array([1, width, width + 1, 1 - width]).astype(np.uint32)
    # Edges inside a segment stay inside: the second pass looks at the others alone.
    between, between_costs, count = np.empty(len(edges), dtype=np.uint32), np.empty(len(edges)), 0
    is_clear = True
    for place in order:
        one, other = _segments(edges[place], parents, steps)
        if one == other:
            continue
        cost = costs[place]
        if cost < bounds[one] and cost < bounds[other]:
            one = _join(parents, sizes, one, other)
            bounds[one] = cost + scale / sizes[one]
            # A segment joined at this cost is joined by all equal edges to others that bear it, in any order: those that
            # do not bear it never change, and what is joined bears it still, unless rounding takes the tolerance away.
            is_clear &= cost < bounds[one]
        else:
            between[count], between_costs[count] = edges[place], cost
            count += 1
    start = 0
    for end in range(1, count + 1):
        if end == count or between_costs[end] > between_costs[start]:
            equals = between[start:end]
            is_clear &= len(equals) == 1 or _is_one_pair(equals, parents, sizes, steps, min_size)
            for edge in equals:
                one, other = _segments(edge, parents, steps)
                if one != other and (sizes[one] < min_size or sizes[other] < min_size):
                    _join(parents, sizes, one, other)
            start = end
    return _number(parents), is_clear


@numba.njit(error_model="numpy")
def _is_one_pair(edges: np.ndarray, parents: np.ndarray, sizes: np.ndarray, steps: np.ndarray, min_size: int) -> bool:
    """Whether no two different pairs of segments could be joined by these edges: then their order does not matter."""
    first, second = np.uint32(0), np.uint32(0)
    for edge in edges:
        one, other = _segments(edge, parents, steps)
        if one != other and (sizes[one] < min_size or sizes[other] < min_size):
            one, other = min(one, other), max(one, other)
            if first != second and (one != first or other != second):
                return False
            first, second = one, other
    return True


@numba.njit(error_model="numpy")
def _segments(edge: int, parents: np.ndarray, steps: np.ndarray) -> tuple[int, int]:
    """The pixels that stand for the segments at an edge's two ends."""
    pixel = edge >> _TWO
    return _find(parents, pixel), _find(parents, np.uint32(pixel + steps[edge & _THREE]))


@numba.njit(error_model="numpy")
def _find(parents: np.ndarray, pixel: int) -> int:
    """The pixel that stands for the segment; halves the path to it."""
    while parents[pixel] != pixel:
        parents[pixel] = parents[parents[pixel]]
        pixel = parents[pixel]
    return pixel


@numba.njit(error_model="numpy")
def _join(parents: np.ndarray, sizes: np.ndarray, one: int, other: int) -> int:
    """Join two segments by the pixels that stand for them; one of these then stands for both."""
    if sizes[one] < sizes[other]:
        one, other = other, one
    parents[other] = one
    sizes[one] += sizes[other]
    return one


@numba.njit(error_model="numpy")
def _number(parents: np.ndarray) -> np.ndarray:
    labels, numbers, count = np.empty(len(parents), dtype=np.int64), np.full(len(parents), -1, dtype=np.int64), 0
    for pixel in range(len(parents)):
        root = _find(parents, np.uint32(pixel))
        if numbers[root] < 0:
            numbers[root] = count
            count += 1
        labels[pixel] = numbers[root]
    return labels
