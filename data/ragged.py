"""Rows of different lengths in two arrays, on disk in two files that all processes share."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.files import atomic_path

_REMEDY = "what makes it was stopped, or it was copied in part: run that again"


class Ragged:
    """A list of N matrices that have W columns and any number of rows, none included.

    A loaded one is memory-mapped and pickled by its path, so that worker processes share its pages instead of copying it.

    Attributes:
        values: (T, W), all matrices below one another.
        offsets: (N + 1,) int64; matrix i is values[offsets[i] : offsets[i + 1]].
    Raises:
        ValueError: the two do not belong together.
    """

    def __init__(self, values: np.ndarray, offsets: np.ndarray):
        defect = _find_defect(values, offsets)
        if defect:
            raise ValueError(defect)
        self.values, self.offsets = values, offsets
        self._stem: Path | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        """(n, W), a view; of a loaded one it cannot be written to."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple:
        return (Ragged, (self.values, self.offsets)) if self._stem is None else (Ragged.load, (self._stem,))

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64."""
        return np.diff(self.offsets)

    @classmethod
    def from_rows(cls, rows: Iterable, *, width: int, dtype: np.dtype | type) -> "Ragged":
        """Gather matrices one by one; takes about the memory of the result.

        Args:
            rows: (n, width) arrays or lists of lists; [] counts as (0, width).
            width: columns.
            dtype: of the values; whole numbers are never wrapped or rounded to fit.
        Raises:
            ValueError: as `as_matrix`; names the row.
        """
        values, offsets = np.empty((0, width), dtype), [0]
        for number, row in enumerate(rows):
            try:
                matrix = as_matrix(row, width=width, dtype=dtype)
            except ValueError as error:
                raise ValueError(f"row {number}: {error}") from None
            end = offsets[-1] + len(matrix)
            if end > len(values):
                # Enlarged where it lies, without a second copy; no one else has it yet.
                values.resize((end + end // 8 + 1024, width), refcheck=False)
            values[offsets[-1] : end] = matrix
            offsets.append(end)
        values.resize((offsets[-1], width), refcheck=False)
        return cls(values, np.array(offsets, dtype=np.int64))

    @classmethod
    def concatenate(cls, parts: Sequence["Ragged"]) -> "Ragged":
        """The matrices of all parts, in order; there is at least one part."""
        counts = np.concatenate([part.lengths for part in parts])
        return cls(np.concatenate([part.values for part in parts]), np.append(0, np.cumsum(counts)))

    def save(self, stem: str | Path) -> None:
        """Write STEM.npy and then STEM_offsets.npy: killed in between, there is nothing that could be loaded."""
        values_path, offsets_path = _paths(stem)
        offsets_path.unlink(missing_ok=True)
        save_array(values_path, self.values)
        save_array(offsets_path, self.offsets)

    @staticmethod
    def exists(stem: str | Path) -> bool:
        """Whether `save` has written it, all of it."""
        return _paths(stem)[1].exists()

    @staticmethod
    def delete(stem: str | Path) -> None:
        """Remove what `save` wrote, if anything."""
        for path in reversed(_paths(stem)):
            path.unlink(missing_ok=True)

    @classmethod
    def load(cls, stem: str | Path) -> "Ragged":
        """Map what `save` wrote; reads the offsets, and of the values only what is asked for later.

        Raises:
            DataError: a file is missing or damaged; names it and the remedy.
        """
        stem = Path(stem).absolute()
        offsets, values = (map_array(path) for path in reversed(_paths(stem)))
        defect = _find_defect(values, offsets)
        if defect:
            raise DataError(f"{stem}.npy: {defect}; {_REMEDY}")
        ragged = cls.__new__(cls)
        ragged.values, ragged.offsets, ragged._stem = values, offsets, stem
        return ragged


def as_matrix(rows: object, *, width: int, dtype: np.dtype | type) -> np.ndarray:
    """(n, width) of `dtype` with the same numbers.

    Args:
        rows: (n, width) array or list of lists; [] counts as (0, width).
    Raises:
        ValueError: another shape, no numbers, or numbers that an integer `dtype` cannot hold: fractions, too large ones.
    """
    try:
        matrix = np.asarray(rows)
    except (ValueError, OverflowError):
        raise ValueError(f"no rows of {width} numbers each") from None
    if matrix.shape == (0,):
        return np.empty((0, width), dtype)
    if matrix.ndim != 2 or matrix.shape[1] != width:
        raise ValueError(f"shape {matrix.shape} where rows of {width} numbers are needed")
    if matrix.dtype == dtype:
        return matrix
    if matrix.dtype.kind not in "iuf":
        raise ValueError(f"no rows of {width} numbers each, but of {matrix.dtype}")
    # What cannot be converted comes out as any number, but as another one.
    with np.errstate(invalid="ignore"):
        converted = matrix.astype(dtype)
    if converted.dtype.kind in "iu" and not (same := converted == matrix).all():
        limits = np.iinfo(dtype)
        raise ValueError(f"{matrix[~same][0]} is no whole number from {limits.min} to {limits.max}")
    return converted


def save_array(path: str | Path, array: np.ndarray) -> None:
    """Write an .npy file, atomically."""
    with atomic_path(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def map_array(path: str | Path) -> np.ndarray:
    """An .npy file, memory-mapped and read-only.

    Raises:
        DataError: it is missing or damaged; names it and the remedy.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; {_REMEDY}") from error
    # A damaged header makes NumPy raise nearly anything.
    except Exception as error:
        raise DataError(f"{path}: no whole .npy file ({error}); {_REMEDY}") from error
    if not isinstance(array, np.memmap):
        raise DataError(f"{path}: no .npy file; {_REMEDY}")
    # A view of NumPy's own class is faster to take views of.
    return np.asarray(array)


def _paths(stem: str | Path) -> tuple[Path, Path]:
    stem = Path(stem)
    return stem.with_name(f"{stem.name}.npy"), stem.with_name(f"{stem.name}_offsets.npy")


def _find_defect(values: np.ndarray, offsets: np.ndarray) -> str | None:
    if values.ndim != 2:
        return f"values of shape {values.shape} where two axes are needed"
    if offsets.ndim != 1 or offsets.dtype != np.int64 or len(offsets) == 0:
        return f"offsets of shape {offsets.shape} and {offsets.dtype} where a row of int64 is needed"
    if offsets[0] != 0 or (offsets[1:] < offsets[:-1]).any() or offsets[-1] != len(values):
        return f"the offsets do not lead from 0 up to the {len(values)} rows of values"
    return None
