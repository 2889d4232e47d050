"""Average precision's curve: precision over recall, each precision the best at this recall or a greater one."""

import numpy as np


def upper_envelope(precision: np.ndarray) -> np.ndarray:
    """(n, ...) -> (n, ...) the largest from each place on."""
    return np.maximum.accumulate(precision[::-1], axis=0)[::-1]


def area_below_envelope(precision: np.ndarray, found: np.ndarray, *, total: int) -> np.ndarray:
    """(...) the area below precision's upper envelope over recall.

    Args:
        precision: (n, ...), best first.
        found: (n, ...) int, how many are found up to each place. Counts, so that finding all of them is exactly 1.
        total: how many there are to find.
    """
    return (np.diff(found, axis=0, prepend=0) * upper_envelope(precision)).sum(0) / total
