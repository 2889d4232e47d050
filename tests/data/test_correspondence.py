import os
import pickle

import numpy as np
import pytest

from data.correspondence import Correspondence, load_correspondence
from data.ragged import Ragged
from utils.errors import DataError

BOXES = [[[0, 0, 10, 12], [3, 4, 5, 6]], [], [[1, 2, 3, 4]]]
NEIGHBOURS = [[2, -1], [0, 2], [0, 1]]
PAIR = [3, 4, 5, 6, 1, 2, 3, 4]
PAIRS = [[PAIR, PAIR[::-1]], [], [], [], [PAIR], []]


def rows(matrices, width):
    return Ragged.from_rows(matrices, width=width, dtype=np.uint16)


def correspondence(*, boxes=BOXES, neighbours=NEIGHBOURS, pairs=PAIRS):
    return Correspondence(rows(boxes, 4), np.array(neighbours, dtype=np.int32), rows(pairs, 8))


def as_lists(content):
    return [row.tolist() for row in content.boxes], content.neighbours.tolist(), [row.tolist() for row in content.pairs]


def test_a_store_comes_back(tmp_path):
    correspondence().save(tmp_path / "store")
    loaded = load_correspondence(tmp_path / "store")
    assert as_lists(loaded) == (BOXES, NEIGHBOURS, PAIRS) and len(loaded) == 3
    names = ["boxes.npy", "boxes_offsets.npy", "neighbours.npy", "pairs.npy", "pairs_offsets.npy"]
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == names
    assert loaded.boxes.values.dtype == loaded.pairs.values.dtype == np.uint16 and loaded.neighbours.dtype == np.int32


def test_pairs_are_found_by_image_and_rank():
    content = correspondence()
    assert content.pairs_of(0, 0).tolist() == PAIRS[0] and content.pairs_of(2, 0).tolist() == PAIRS[4]
    with pytest.raises(IndexError, match="neighbour 2 of 2"):
        content.pairs_of(0, 2)


def test_a_loaded_one_is_pickled_by_its_folder_and_another_whole(tmp_path):
    correspondence(boxes=[[[1, 2, 3, 4]] * 5000, [], []]).save(tmp_path)
    pickled = pickle.dumps(load_correspondence(tmp_path))
    copy = pickle.loads(pickled)
    assert len(pickled) < 500 and copy.boxes[0].shape == (5000, 4)
    assert all(isinstance(array.base, np.memmap) for array in (copy.boxes.values, copy.neighbours, copy.pairs.values))
    assert as_lists(pickle.loads(pickle.dumps(correspondence()))) == (BOXES, NEIGHBOURS, PAIRS)


@pytest.mark.parametrize("after", range(5))
def test_killed_half_way_neither_a_new_store_nor_one_over_an_older_looks_complete(tmp_path, monkeypatch, after):
    correspondence().save(tmp_path / "older")
    replaced = []

    def replace_some(source, target, replace=os.replace):
        if len(replaced) == after:
            raise KeyboardInterrupt
        replaced.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_some)
    for folder in ("older", "new"):
        replaced.clear()
        with pytest.raises(KeyboardInterrupt):
            correspondence(pairs=PAIRS[::-1]).save(tmp_path / folder)
        with pytest.raises(DataError, match=r"pairs_offsets\.npy: No such file.*orl_main\.py --stage 2"):
            load_correspondence(tmp_path / folder)


@pytest.mark.parametrize("name", ["boxes", "boxes_offsets", "neighbours", "pairs", "pairs_offsets"])
def test_a_missing_file_is_named_with_its_remedy(tmp_path, name):
    correspondence().save(tmp_path)
    (tmp_path / f"{name}.npy").unlink()
    with pytest.raises(DataError, match=rf"{name}\.npy: No such file.*orl_main\.py --stage 2"):
        load_correspondence(tmp_path)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"neighbours": [[3, 0], [0, 2], [0, 1]]}, "neighbours are images from 0 to 2"),
        ({"neighbours": [[-2, 0], [0, 2], [0, 1]]}, "neighbours are images from 0 to 2"),
        ({"neighbours": [[1], [0], [0]]}, "3 rows of boxes and 6 of pairs for 3 images x 1"),
        ({"boxes": BOXES[:2]}, "2 rows of boxes and 6 of pairs for 3 images x 2"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused_when_made_and_when_loaded(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        correspondence(**changed)
    correspondence().save(tmp_path)
    if "boxes" in changed:
        rows(changed["boxes"], 4).save(tmp_path / "boxes")
    else:
        np.save(tmp_path / "neighbours.npy", np.array(changed["neighbours"], dtype=np.int32))
    with pytest.raises(DataError, match=f"{tmp_path}: {message}.*orl_main.py --stage 2"):
        load_correspondence(tmp_path)


def test_other_types_and_widths_are_refused():
    content = correspondence()
    for wrong in (
        (content.pairs, content.neighbours, content.pairs),
        (content.boxes, content.neighbours.astype(np.int64), content.pairs),
        (content.boxes, content.neighbours, Ragged(content.pairs.values.astype(np.int32), content.pairs.offsets)),
    ):
        with pytest.raises(ValueError, match="int32|uint16"):
            Correspondence(*wrong)
