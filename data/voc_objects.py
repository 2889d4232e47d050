"""Boxes of one or several parts of PASCAL VOC, such as 07+12, as one set of objects."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.object_sets import ObjectSet
from data.ragged import Ragged
from data.voc import VocFolder


def read_voc(root: str | Path, parts: Sequence[str], *, classes: Sequence[str], keep_empty: bool) -> ObjectSet:
    """Read the boxes of parts, one behind the other.

    Args:
        root: holds the folders that the parts name.
        parts: FOLDER/SPLIT each, such as VOC2007/trainval; SPLIT alone where `root` itself is such a folder.
        classes: names, in the order of their numbers.
        keep_empty: images without any object stay, as a test set needs them.
    Raises:
        DataError: as data.voc.VocFolder.
    """
    names, sizes, rows = [], [], []
    for part in parts:
        folder, _, split = part.rpartition("/")
        dataset = VocFolder(Path(root) / folder, classes)
        for name in dataset.names(split):
            objects = dataset.objects(name)
            if len(objects.boxes) or keep_empty:
                names.append(dataset.image_path(name).relative_to(root).as_posix().encode())
                sizes.append(objects.size)
                rows.append(np.column_stack([objects.boxes, objects.labels, objects.difficult]))
    return ObjectSet(
        root=Path(root),
        names=np.array(names, dtype=np.bytes_),
        ids=np.arange(len(names)),
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        rows=Ragged.from_rows(rows, width=6, dtype=np.float64),
        classes=tuple(classes),
    )
