"""Reads the JSON files that ORL's release publishes: neighbours, proposals and correspondences.

The order of images is each file's own: rows are matched to a listing by the names of the images. Boxes are x, y, w, h in
pixels. Sources: ORL's coco_correspondence_json.py and coco_orl_json.py, correspondence.py and selective_search.py among its
datasets, coco_knn_image_retrieval.ipynb.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data.correspondence import Correspondence
from data.json_stream import read_parts
from data.listing import ImageList
from data.ragged import Ragged, as_matrix
from utils.errors import DataError

_IMAGES = "images"
_BOXES, _KNN, _PAIRS = (f"pseudo_annotations.{key}" for key in ("bbox", "knn_image_id", "knn_bbox_pair"))


def read_names(path: str | Path) -> list[str]:
    """The images that a COCO annotation file or one of the published files names, in its order.

    Raises:
        DataError: it names none; says what would do.
    """
    return _names(path, read_parts(path, {_IMAGES: None}))


def read_neighbours(path: str | Path, images: ImageList) -> np.ndarray:
    """The neighbours in a published file, train2017_10nn_instance.json or such.

    Args:
        path: its knn_image_id holds places in its own list of images, not COCO's ids.
        images: exactly the images that the file names, in any order.
    Returns:
        (N, K) int32 places in the listing; -1 where there is none.
    Raises:
        DataError: other images, or no such neighbours; names the file, an image or a value, and the remedy.
    """
    parts = read_parts(path, {_IMAGES: None, _KNN: _take_neighbours})
    names = _names(path, parts)
    return _renumber(path, _part(path, parts, _KNN, len(names)), _places(path, names, images))


def read_all_proposals(
    path: str | Path | Sequence[str | Path], images: ImageList, *, names: list[str] | None
) -> Ragged:
    """All proposals in a published file, train2017_selective_search_proposal.json or such; takes twice their memory.

    Args:
        path: one file, or several that follow one another, as COCO+ has two.
        images: exactly the images of the files, in any order.
        names: the images of all files in their order, from `read_names`; None where the files name theirs, as ours do.
    Returns:
        N rows of (n, 4) uint16, in the files' order of boxes.
    Raises:
        DataError: other images, or no such boxes; names the file, an image or a value, and the remedy.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    rows: list[np.ndarray] = []
    named: list[str] = []
    for path in paths:
        parts = read_parts(path, {"bbox": _take_boxes, _IMAGES: None})
        if _IMAGES in parts:
            own = _names(path, parts)
        elif names is None:
            raise DataError(f"{path}: does not name its images; give the COCO annotation files that it was made from")
        else:
            own = names[len(rows) : len(rows) + len(parts.get("bbox", ()))]
        if names is not None and own != names[len(rows) : len(rows) + len(own)]:
            raise DataError(f"{path}: names other images than the files it was given with; give those it was made from")
        rows += _part(path, parts, "bbox", len(own))
        named += own
    title = ", ".join(map(str, paths))
    if names is not None and len(rows) != len(names):
        hint = "give the annotation files, or the other part of the proposals"
        raise DataError(f"{title}: proposals of {len(rows)} images where {len(names)} are named; {hint}")
    order = np.argsort(_places(title, named, images))
    return Ragged.from_rows((rows[place] for place in order), width=4, dtype=np.uint16)


def read_correspondence(path: str | Path, images: ImageList) -> Correspondence:
    """A published train2017_10nn_instance_correspondence.json or such.

    Args:
        path: the file of all parts, merged.
        images: exactly the images that the file names, in any order.
    Raises:
        DataError: other images, or no such boxes, neighbours or pairs; names the file, an image or a value, and the remedy.
    """
    takes = {_IMAGES: None, _BOXES: _take_boxes, _KNN: _take_neighbours, _PAIRS: _take_pairs}
    parts = read_parts(path, takes)
    names = _names(path, parts)
    boxes, knn = (_part(path, parts, key, len(names)) for key in (_BOXES, _KNN))
    # There may be pairs for the first few neighbours only.
    pairs, K = parts.get(_PAIRS, ((), 1))
    _check_count(path, _PAIRS, len(pairs) // K, len(names))
    if K > knn.shape[1]:
        raise DataError(f"{path}: pairs with {K} neighbours, but {knn.shape[1]} neighbours; make or load it down again")
    places = _places(path, names, images)
    order = np.argsort(places)
    return Correspondence(
        Ragged.from_rows((boxes[place] for place in order), width=4, dtype=np.uint16),
        _renumber(path, knn[:, :K], places),
        Ragged.from_rows((pairs[place * K + k] for place in order for k in range(K)), width=8, dtype=np.uint16),
    )


def _take_boxes(items: Iterator) -> Ragged:
    return Ragged.from_rows(map(_as_list_of_boxes, items), width=4, dtype=np.uint16)


def _as_list_of_boxes(item: object) -> object:
    # The published code writes a single box without the brackets around it.
    return [item] if isinstance(item, list) and item and not isinstance(item[0], list) else item


def _take_neighbours(items: Iterator) -> np.ndarray:
    """(N, K) int32, places in the file."""
    rows = list(items)
    K = len(rows[0]) if rows and isinstance(rows[0], list) else 0
    if K == 0:
        raise ValueError("no list of neighbours for the first image")
    odd = next((place for place, row in enumerate(rows) if not isinstance(row, list) or len(row) != K), None)
    if odd is not None:
        raise ValueError(f"row {odd}: {rows[odd]} where {K} neighbours are needed, as the first image has")
    return as_matrix(rows, width=K, dtype=np.int32)


def _take_pairs(items: Iterator) -> tuple[Ragged, int]:
    """Rows of (n, 8), K an image; and K."""
    counts: list[int] = []

    def rows() -> Iterator[np.ndarray]:
        for item in items:
            counts.append(len(item) if isinstance(item, list) else 0)
            if counts[-1] != counts[0] or counts[0] == 0:
                raise ValueError(f"pairs with {counts[-1]} neighbours, and with {counts[0]} in the first row")
            yield from item

    try:
        return Ragged.from_rows(rows(), width=8, dtype=np.uint16), counts[0] if counts else 1
    except ValueError as error:
        raise ValueError(f"image {len(counts) - 1}: {error}") from error


def _names(path: str | Path, parts: dict[str, object]) -> list[str]:
    """From [{"file_name": ...}, ...], as COCO has it, or {"file_name": [...]}, as the published files have it."""
    entries = parts.get(_IMAGES)
    try:
        names = entries["file_name"] if isinstance(entries, dict) else [entry["file_name"] for entry in entries]
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return names
    except (KeyError, TypeError):
        pass
    raise DataError(f"{path}: names no images; a COCO annotation file or one of ORL's files with `images` is needed")


def _part(path: str | Path, parts: dict[str, object], key: str, count: int) -> object:
    _check_count(path, key, len(parts.get(key, ())), count)
    return parts[key]


def _check_count(path: str | Path, key: str, found: int, count: int) -> None:
    if found != count:
        hint = "if it is one of several parts, merge them first; else make it or load it down again"
        raise DataError(f"{path}: {key} has rows for {found} images where {count} are needed; {hint}")


def _places(path: str | Path, names: list[str], images: ImageList) -> np.ndarray:
    """(N,) int64 place in the listing of each image that a file names: by relative path, or by file name where unique."""
    ours = {images.name(index): index for index in range(len(images))}
    by_file_name: dict[str, int] = {}
    for name, place in ours.items():
        file_name = name.rpartition("/")[2]
        by_file_name[file_name] = -1 if file_name in by_file_name else place
    places = np.array([ours.get(name, by_file_name.get(name.rpartition("/")[2], -1)) for name in names])
    strange = np.flatnonzero(places < 0)
    counts = np.bincount(places[places >= 0], minlength=len(images))
    lacking, double = np.flatnonzero(counts == 0), np.flatnonzero(counts > 1)
    for indices, text, name in (
        (
            strange,
            f"of its {len(names)} images are not in {images.root}, or several there have that name",
            names.__getitem__,
        ),
        (lacking, f"of the {len(images)} images in {images.root} are not in it", images.name),
        (double, "images are named twice", images.name),
    ):
        if len(indices):
            hint = "the file and the folder must be of the same images; make the file again, or list the same in data.subset"
            raise DataError(f"{path}: {len(indices)} {text}, such as {name(indices[0])}; {hint}")
    return places


def _renumber(path: str | Path, knn: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(N, K) places in the listing, from places in the file."""
    wrong = (knn < -1) | (knn >= len(places))
    if wrong.any():
        hint = "they are places in the file's own list of images, from 0, not ids; make it or load it down again"
        raise DataError(f"{path}: neighbour {knn[wrong][0]} of {len(places)} images; {hint}")
    ours = np.empty_like(knn)
    ours[places] = np.where(knn < 0, -1, places[knn])
    return ours
