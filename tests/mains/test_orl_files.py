"""What ORL's main takes from elsewhere: weights, published files, and folders in which something is wrong."""

from pathlib import Path

import numpy as np
import pytest

from data.correspondence import Correspondence, load_correspondence
from data.listing import find_images
from data.orl_export import write_correspondence, write_neighbours, write_proposals
from data.ragged import Ragged
from tests.mains.orl_runs import found, make_folder, train
from tests.mains.runs import assert_same, make_pictures, metrics, newest
from tools.kept_boxes import ProposalFiles


@pytest.fixture
def folder(tmp_path) -> Path:
    make_folder(tmp_path)
    return tmp_path


@pytest.mark.parametrize("weights", ["stage1/encoder.pth", "stage1/backbone.pth", "stage3/checkpoints"])
def test_other_weights_take_the_place_of_stage_1(folder, finished, weights):
    path = finished / "run" / weights
    path = next(path.glob("*.pth")) if path.is_dir() else path
    assert train(folder, "run", "--stage", "2", "--set", f"model.init={path}") == 0
    assert not (folder / "run" / "stage1").exists()
    # Only with the projector are neighbours the same.
    same = found(folder / "run")["neighbours.npy"] == found(finished / "run")["neighbours.npy"]
    assert same == (weights == "stage1/encoder.pth")


def test_published_files_take_the_place_of_what_they_hold(folder, finished):
    images, correspondence = find_images(finished), load_correspondence(finished / "run" / "stage2")
    proposals = ProposalFiles(images, finished / "proposals", "ss_fast")
    write_neighbours(folder / "knn.json", images, correspondence.neighbours, info={})
    write_proposals(folder / "boxes.json", images, (proposals[image] for image in range(27)), info={})
    write_correspondence(folder / "all.json", images, correspondence, info={})
    encoder = finished / "run" / "stage1" / "encoder.pth"
    by_file = ["--set", f"files.neighbours={folder / 'knn.json'}", f"files.proposals=[{folder / 'boxes.json'}]"]
    by_file += [f"model.init={encoder}"]
    assert train(folder, "knn", "--stage", "2", *by_file) == 0
    files = ("neighbours.npy", "boxes.npy", "pairs.npy", "pairs_offsets.npy")
    assert [found(folder / "knn")[name] for name in files] == [found(finished / "run")[name] for name in files]
    assert not (folder / "proposals").exists() and not list((folder / "knn" / "stage2").glob("proposals*"))
    by_file = ["--set", f"files.correspondence={folder / 'all.json'}"]
    assert train(folder, "all", "--stage", "3", *by_file) == 0
    assert not (folder / "all" / "stage1").exists()
    assert_same(newest(folder / "all" / "stage3"), newest(finished / "run" / "stage3"))


def test_the_first_neighbours_of_a_file_are_taken(folder, finished, capsys):
    correspondence = load_correspondence(finished / "run" / "stage2")
    write_correspondence(folder / "all.json", find_images(finished), correspondence, info={})
    by_file = ["--stage", "2", "--set", f"files.correspondence={folder / 'all.json'}"]
    assert train(folder, "two", *by_file, "neighbours.count=2") == 0
    two = load_correspondence(folder / "two" / "stage2")
    assert np.array_equal(two.neighbours, correspondence.neighbours[:, :2])
    assert all(np.array_equal(two.pairs_of(i, k), correspondence.pairs_of(i, k)) for i in range(27) for k in range(2))
    assert train(folder, "four", *by_file, "neighbours.count=4") == 2
    assert "3 neighbours an image, but neighbours.count is 4" in capsys.readouterr().err


def test_boxes_outside_their_images_are_refused_at_once(folder, finished, capsys):
    correspondence = load_correspondence(finished / "run" / "stage2")
    boxes = [row.copy() for row in correspondence.boxes]
    boxes[4][0] = (50, 0, 20, 20)
    wrong = Correspondence(
        Ragged.from_rows(boxes, width=4, dtype=np.uint16), correspondence.neighbours, correspondence.pairs
    )
    write_correspondence(folder / "all.json", find_images(finished), wrong, info={})
    assert train(folder, "run", "--stage", "2", "--set", f"files.correspondence={folder / 'all.json'}") == 3
    assert "60 x 48 pixels as one sees it, but its box is [50, 0, 20, 20]" in capsys.readouterr().err


def test_a_file_that_names_missing_images_is_refused(folder, finished, capsys):
    images = find_images(finished)
    write_correspondence(folder / "all.json", images, load_correspondence(finished / "run" / "stage2"), info={})
    (folder / "images" / "train" / images.name(3)).unlink()
    assert train(folder, "run", "--set", f"files.correspondence={folder / 'all.json'}") == 3
    message = capsys.readouterr().err
    assert "all.json" in message and images.name(3) in message


def test_images_that_came_since_are_noticed(folder, finished, capsys):
    arguments = ["--set", f"model.init={finished / 'run' / 'stage1' / 'encoder.pth'}"]
    assert train(folder, "run", "--stage", "2", *arguments) == 0
    make_pictures(folder, count=28)
    assert train(folder, "run", "--stage", "3", *arguments) == 2
    assert "stage 2 was made with another listing" in capsys.readouterr().err
    assert train(folder, "run", "--stage", "2", *arguments) == 2
    assert "stage 2 was made with another listing" in capsys.readouterr().err


def test_an_unreadable_image_has_no_neighbours_and_is_replaced(folder):
    path = find_images(folder).path(5)
    path.write_bytes(b"no image")
    assert train(folder, "run", "--set", "data.max_bad_fraction=0.2") == 0
    correspondence = load_correspondence(folder / "run" / "stage2")
    assert (correspondence.neighbours[5] == -1).all() and 5 not in correspondence.neighbours
    assert len(correspondence.boxes[5]) == 0
    assert metrics(folder / "run" / "stage3")[-1]["step"] == 9
