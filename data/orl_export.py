"""Writes the JSON files that ORL's release reads: neighbours, proposals and correspondences.

An image at a time, so that they need not fit into memory; whole or not at all. `data.orl_files` names the sources.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from data.correspondence import Correspondence
from data.json_stream import write_parts
from data.listing import ImageList
from data.ragged import as_matrix


def write_neighbours(path: str | Path, images: ImageList, neighbours: np.ndarray, info: dict) -> None:
    """Write neighbours as published.

    Args:
        images: N images; their order becomes the file's.
        neighbours: (N, K) places; -1, for none, stays, which the published code would take for the last image.
        info: what else is to be noted.
    """
    _write(path, images, neighbours.shape[1], info, {"knn_image_id": (row.tolist() for row in neighbours)})


def write_proposals(path: str | Path, images: ImageList, boxes: Iterable, info: dict) -> None:
    """Write proposals as published, and with them the names of the images, which the published code passes over.

    Args:
        images: N images; their order becomes the file's. The published code reads its images from an annotation file or
            a neighbour file: that must have this order too, as `write_neighbours`' has.
        boxes: N times (n, 4); they are taken one by one, so that they need not fit into memory.
        info: what is to be noted.
    Raises:
        ValueError: not N, or no boxes.
    """
    matrices = (as_matrix(row, width=4, dtype=np.uint16).tolist() for row in boxes)
    write_parts(path, {"info": info, "images": _image_part(images), "bbox": _counted(matrices, len(images))})


def write_correspondence(path: str | Path, images: ImageList, correspondence: Correspondence, info: dict) -> None:
    """Write boxes, neighbours and pairs as published; arguments as `write_neighbours`.

    An image without boxes, and a neighbour without pairs, has an empty list, on which the published code fails.
    """
    N, K = correspondence.neighbours.shape
    content = {
        "bbox": (row.tolist() for row in correspondence.boxes),
        "knn_image_id": (row.tolist() for row in correspondence.neighbours),
        "knn_bbox_pair": ([correspondence.pairs_of(i, k).tolist() for k in range(K)] for i in range(N)),
    }
    _write(path, images, K, info, content)


def _write(path: str | Path, images: ImageList, K: int, info: dict, content: dict[str, Iterator]) -> None:
    listed = _image_part(images)
    content = {key: _counted(items, len(images)) for key, items in content.items()}
    annotations = {"image_id": listed["id"], **content}
    write_parts(path, {"info": {**info, "knn_image_num": K}, "images": listed, "pseudo_annotations": annotations})


def _image_part(images: ImageList) -> dict[str, list]:
    """Names and ids: the numbers that the files are named by, as COCO's are, where all differ, else places."""
    names = [images.name(index) for index in range(len(images))]
    stems = [PurePosixPath(name).stem for name in names]
    ids = [int(stem) for stem in stems if stem.isascii() and stem.isdigit() and len(stem) < 19]
    return {"file_name": names, "id": ids if len(set(ids)) == len(names) else list(range(len(names)))}


def _counted(items: Iterable, count: int) -> Iterator:
    found = 0
    for item in items:
        yield item
        found += 1
    if found != count:
        raise ValueError(f"{found} rows for {count} images")
