import json

import numpy as np
import pytest

from data.correspondence import Correspondence
from data.listing import find_images
from data.orl_files import read_all_proposals, read_correspondence, read_neighbours
from data.proposals import proposal_path, write_proposals
from data.ragged import Ragged
from tests.data.test_correspondence import as_lists
from tools import orl_json

PROPOSALS = [[[0, 0, 30, 24], [index, 1, 5, 6]] for index in range(8)]


@pytest.fixture
def data_set(eight_photos):
    """Eight photographs, of which the last has neither proposals nor pairs, and its stage 2 in DIR/stage2."""
    kept = [[boxes[1]] for boxes in PROPOSALS[:7]] + [[]]
    neighbours = np.array([[(i + 1) % 7, (i + 2) % 7] for i in range(7)] + [[0, -1]], dtype=np.int32)
    pairs = [[kept[i][0] + kept[k][0]] if i < 7 else [] for i, row in enumerate(neighbours.tolist()) for k in row]
    rows = Ragged.from_rows(kept, width=4, dtype=np.uint16), Ragged.from_rows(pairs, width=8, dtype=np.uint16)
    Correspondence(rows[0], neighbours, rows[1]).save(eight_photos / "stage2")
    for index in range(7):
        path = proposal_path(eight_photos / "proposals", "ss_fast", "train", f"{index}.png")
        write_proposals(path, np.array(PROPOSALS[index], dtype=np.uint16))
    return eight_photos


def run(folder, *arguments):
    return orl_json.main(
        [str(folder / "stage2"), "--dataset_dir", str(folder), "--out", str(folder / "out"), *arguments]
    )


def test_the_three_files_come_back(data_set):
    assert run(data_set) == 0
    names = ("train_2nn_instance", "train_2nn_instance_correspondence", "train_selective_search_proposal")
    paths = [data_set / "out" / f"{name}.json" for name in names]
    assert sorted((data_set / "out").iterdir()) == paths
    images = find_images(data_set)
    content = read_correspondence(paths[1], images)
    assert as_lists(content)[0] == [[boxes[1]] for boxes in PROPOSALS[:7]] + [[]]
    assert content.pairs_of(3, 1).tolist() == [[3, 1, 5, 6, 5, 1, 5, 6]] and len(content.pairs_of(7, 0)) == 0
    assert np.array_equal(read_neighbours(paths[0], images), content.neighbours)
    assert [row.tolist() for row in read_all_proposals(paths[2], images, names=None)] == [*PROPOSALS[:7], []]
    assert json.loads(paths[1].read_text())["images"]["id"] == list(range(8))


def test_cocos_folder_gives_the_published_names(data_set):
    (data_set / "images" / "train").rename(data_set / "images" / "train2017")
    assert run(data_set) == 0 and (data_set / "out" / "train2017_2nn_instance_correspondence.json").exists()


def test_missing_proposals_and_another_listing_are_told(data_set, caplog):
    proposal_path(data_set / "proposals", "ss_fast", "train", "3.png").unlink()
    assert run(data_set) == 3 and "3.png.npy" in caplog.text and "make_proposals" in caplog.text
    assert not (data_set / "out" / "train_selective_search_proposal.json").exists()
    caplog.clear()
    (data_set / "images" / "train" / "7.png").unlink()
    assert run(data_set) == 3 and "is of 8 images" in caplog.text and "has 7" in caplog.text
    caplog.clear()
    (data_set / "stage2" / "pairs.npy").unlink()
    assert run(data_set) == 3 and "pairs.npy" in caplog.text and "--stage 2" in caplog.text


def test_proposals_elsewhere_are_found(data_set):
    (data_set / "proposals").rename(data_set / "elsewhere")
    (data_set / "elsewhere" / "ss_fast").rename(data_set / "elsewhere" / "ss_fast_500")
    assert run(data_set, "--proposal_dir", str(data_set / "elsewhere"), "--proposals", "ss_fast_500") == 0
    assert json.loads((data_set / "out" / "train_selective_search_proposal.json").read_text())["info"] == {
        "type": "ss_fast_500"
    }
