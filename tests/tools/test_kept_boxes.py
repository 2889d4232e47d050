import numpy as np
import pytest
from PIL import Image

from data.boxes import filter_boxes
from data.listing import find_images
from data.proposals import proposal_path, write_proposals
from data.ragged import Ragged
from tests.tools.small_stage import COUNT, NO_IMAGE, NOTHING_FOUND, RULE, make_images, make_proposals
from tools import kept_boxes
from tools.kept_boxes import ProposalFiles, keep_boxes


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("kept_boxes") / "images")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(kept_boxes, "_IMAGES_A_CHUNK", 4)


def keep(images, folder, proposals=None, **options):
    proposals = make_proposals() if proposals is None else proposals
    return keep_boxes(images, proposals, folder, rule=RULE, **{"workers": 1} | options)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_boxes_are_the_filtered_proposals_of_each_image(images, tmp_path):
    kept = keep(images, tmp_path)
    assert len(kept) == COUNT and kept.values.dtype == np.uint16
    for index, proposals in enumerate(make_proposals()):
        if index not in (NO_IMAGE, NOTHING_FOUND):
            expected = filter_boxes(proposals, min_size=8, max_ratio=3, max_iou=0.5, top_n=12)
            assert 4 < len(expected) < len(proposals)
            np.testing.assert_array_equal(kept[index], expected)


def test_an_image_in_which_nothing_was_found_is_its_own_box_and_one_that_is_none_has_none(images, tmp_path):
    proposals = make_proposals()
    proposals[5] = None
    kept = keep(images, tmp_path, proposals)
    assert kept[NOTHING_FOUND].tolist() == [[0, 0, 52, 36]] and kept[5].tolist() == [[0, 0, 52, 48]]
    assert kept[NO_IMAGE].shape == (0, 4)


def test_the_whole_image_is_meant_as_one_sees_it(tmp_path):
    (tmp_path / "train").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "train" / "turned.jpg", exif=exif)
    kept = keep(find_images(tmp_path), tmp_path / "out", [None])
    assert kept[0].tolist() == [[0, 0, 20, 30]]


def test_an_image_too_long_for_16_bits_is_cut(tmp_path):
    (tmp_path / "train").mkdir()
    Image.new("L", (70000, 2)).save(tmp_path / "train" / "long.png")
    assert keep(find_images(tmp_path), tmp_path / "out", [None])[0].tolist() == [[0, 0, 65535, 2]]


def test_proposals_come_from_their_files_and_a_missing_file_means_none(images, tmp_path):
    proposals = make_proposals()
    for index, boxes in enumerate(proposals):
        if boxes is not None:
            write_proposals(proposal_path(tmp_path, "ss_fast_64", "train", images.name(index)), boxes)
    files = ProposalFiles(images, tmp_path, "ss_fast_64")
    assert files[NO_IMAGE] is None
    keep(images, tmp_path / "files", files)
    keep(images, tmp_path / "given", proposals)
    assert contents(tmp_path / "files") == contents(tmp_path / "given")


def test_boxes_do_not_depend_on_the_number_of_workers(images, tmp_path):
    keep(images, tmp_path / "one")
    keep(images, tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


class Stopping(list):
    """Proposals of which no more than those of `allowed` images may be looked at."""

    allowed = 0

    def __getitem__(self, index):
        if self.allowed == 0:
            raise RuntimeError("stopped")
        self.allowed -= 1
        return super().__getitem__(index)


def test_a_stopped_job_goes_on_and_leaves_nothing_but_the_boxes(images, tmp_path):
    keep(images, tmp_path / "whole")
    proposals = Stopping(make_proposals())
    proposals.allowed = 4 + 4 + 1
    with pytest.raises(RuntimeError, match="stopped"):
        keep(images, tmp_path / "stopped", proposals)
    # Two of three chunks, of 4, 4 and 3 images, are there.
    assert len(list((tmp_path / "stopped").glob("*/*_offsets.npy"))) == 2
    proposals.allowed = 3
    keep(images, tmp_path / "stopped", proposals)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert sorted(contents(tmp_path / "whole")) == ["boxes.npy", "boxes_offsets.npy"]


def test_boxes_that_are_there_are_not_chosen_again(images, tmp_path):
    Ragged.from_rows([[[1, 2, 3, 4]]] * COUNT, width=4, dtype=np.uint16).save(tmp_path / "boxes")
    (tmp_path / "box_chunks").mkdir()
    assert keep(images, tmp_path, Stopping())[2].tolist() == [[1, 2, 3, 4]]
    assert not (tmp_path / "box_chunks").exists()
