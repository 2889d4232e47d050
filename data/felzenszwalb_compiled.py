"""The loops of Felzenszwalb and Huttenlocher's segmentation, compiled by numba; `data.felzenszwalb` says what they compute."""

import math
from collections.abc import Callable

import numba
import numpy as np

# Unsigned, or every index would be looked at for a sign.
_TWO, _THREE = np.uint32(2), np.uint32(3)


def _kept(function: Callable) -> Callable:
    """Compiled when first called, and kept on disk for later processes."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    # Neither the code's folder nor the user's cache can be written to.
    except RuntimeError:
        return numba.njit(nogil=True)(function)


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
def join_pixels(
    costs: np.ndarray, edges: np.ndarray, order: np.ndarray, height: int, width: int, scale: float, min_size: int
) -> np.ndarray:
    """Segments of the graph of pixels.

    Args:
        costs, edges: (E,), as `edge_costs` gives them.
        order: (E,) int64, the edges as they are to be looked at, by rising cost.
        scale: what a segment of one pixel tolerates, in units of `costs`.
        min_size: pixels; smaller segments are joined to the neighbour that comes first in `order`.
    Returns:
        (H * W,) int64 labels, dense from 0, numbered by each segment's first pixel.
    """
    parents, sizes = np.arange(height * width).astype(np.uint32), np.ones(height * width, dtype=np.uint32)
    # Of a segment: its largest inner cost and its tolerance on top. scikit-image compares them in 32 bits.
    bounds = np.full(height * width, scale).astype(np.float32)
    steps = np.array([1, width, width + 1, 1 - width]).astype(np.uint32)
    between, count = np.empty(len(edges), dtype=np.uint32), 0
    for number in order:
        place = np.uint64(number)
        one, other = _segments(edges[place], parents, steps)
        if one == other:
            continue
        cost = costs[place]
        if cost < bounds[one] and cost < bounds[other]:
            one = _join(parents, sizes, one, other)
            bounds[one] = cost + scale / sizes[one]
        else:
            between[count] = edges[place]
            count += 1
    # Edges inside a segment stay inside: these are all that are left.
    for edge in between[:count]:
        one, other = _segments(edge, parents, steps)
        if one != other and (sizes[one] < min_size or sizes[other] < min_size):
            _join(parents, sizes, one, other)
    return _number(parents)


@numba.njit
def _segments(edge: int, parents: np.ndarray, steps: np.ndarray) -> tuple[int, int]:
    """The pixels that stand for the segments at an edge's two ends."""
    pixel = edge >> _TWO
    return _find(parents, pixel), _find(parents, np.uint32(pixel + steps[edge & _THREE]))


@numba.njit
def _find(parents: np.ndarray, pixel: int) -> int:
    """The pixel that stands for the segment; halves the path to it."""
    while parents[pixel] != pixel:
        parents[pixel] = parents[parents[pixel]]
        pixel = parents[pixel]
    return pixel


@numba.njit
def _join(parents: np.ndarray, sizes: np.ndarray, one: int, other: int) -> int:
    """Join two segments by the pixels that stand for them; one of these then stands for both."""
    if sizes[one] < sizes[other]:
        one, other = other, one
    parents[other] = one
    sizes[one] += sizes[other]
    return one


@numba.njit
def _number(parents: np.ndarray) -> np.ndarray:
    labels, numbers, count = np.empty(len(parents), dtype=np.int64), np.full(len(parents), -1, dtype=np.int64), 0
    for pixel in range(len(parents)):
        root = _find(parents, np.uint32(pixel))
        if numbers[root] < 0:
            numbers[root] = count
            count += 1
        labels[pixel] = numbers[root]
    return labels
