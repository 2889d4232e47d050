import numpy as np
import pytest
from PIL import Image

from data.images import UnreadableImage, read_image
from data.proposals import (
    ProposalError,
    find_defect,
    proposal_path,
    proposal_type,
    read_proposals,
    selective_search,
    write_proposals,
)
from tests.paths import BSDS500, needs_photographs


def squares(height=90, width=120, dtype=np.uint8):
    """A red, a green and a blue square on grey."""
    image = np.full((height, width, 3), 100, dtype)
    for channel, (x, y) in enumerate([(10, 10), (60, 15), (30, 60)]):
        image[y : y + 20, x : x + 20, channel] = 250
    return image


def is_inside(boxes, width, height):
    x, y, w, h = boxes.astype(int).T
    return (w >= 1).all() and (h >= 1).all() and (x + w <= width).all() and (y + h <= height).all()


def test_objects_are_found():
    found = selective_search(squares())
    assert found.dtype == np.uint16 and is_inside(found, 120, 90)
    # The search blurs before it segments: an edge may be off by some pixels.
    for x, y in [(10, 10), (60, 15), (30, 60)]:
        assert np.abs(found.astype(int) - (x, y, 20, 20)).max(1).min() <= 3


def test_the_same_image_has_the_same_order_and_another_image_another(photo):
    first = selective_search(photo)
    assert len(first) > 20 and np.array_equal(selective_search(photo.copy()), first)
    other = photo.copy()
    other[0, 0, 0] ^= 1
    orders = [[tuple(box) for box in boxes.tolist()] for boxes in (first, selective_search(other))]
    both = set(orders[0]) & set(orders[1])
    assert len(both) > 20 and len({tuple(box for box in order if box in both) for order in orders}) == 2


def test_the_search_is_given_blue_before_red(photo, monkeypatch):
    given = []
    create = __import__("cv2").ximgproc.segmentation.createSelectiveSearchSegmentation

    class Spy:
        def __init__(self):
            self.search = create()

        def setBaseImage(self, image):
            given.append(image)
            self.search.setBaseImage(image)

        def __getattr__(self, name):
            return getattr(self.search, name)

    monkeypatch.setattr("cv2.ximgproc.segmentation.createSelectiveSearchSegmentation", Spy)
    selective_search(photo)
    assert np.array_equal(given[0], photo[..., ::-1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (7, 3)])
@pytest.mark.parametrize("max_side", [None, 5])
def test_the_smallest_images_have_a_box(shape, max_side):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    found = selective_search(noise, max_side=max_side)
    assert len(found) >= 1 and is_inside(found, shape[1], shape[0])


def test_a_shrunk_search_finds_the_boxes_of_the_large_image_in_its_pixels():
    small = squares()
    large = np.kron(small, np.ones((3, 3, 1), np.uint8))
    assert np.array_equal(selective_search(large, max_side=120), 3 * selective_search(small))
    odd = large[:-1, :-2]
    found = selective_search(odd, max_side=120)
    assert is_inside(found, 358, 269) and (found[:, 0] + found[:, 2]).max() == 358


@pytest.mark.parametrize("max_side", [120, 121, 1000])
def test_images_are_never_enlarged(max_side):
    assert np.array_equal(selective_search(squares(), max_side=max_side), selective_search(squares()))


def test_an_image_whose_boxes_16_bits_do_not_hold_is_refused():
    with pytest.raises(ProposalError, match="65536 x 1 pixels, but boxes hold up to 65535"):
        selective_search(np.zeros((1, 65536, 3), np.uint8), max_side=9)


def test_what_opencv_refuses_is_told_with_a_way_out():
    with pytest.raises(ProposalError, match="selective search failed: .*max_side"):
        selective_search(squares(dtype=np.float64))


@needs_photographs
def test_photographs_have_hundreds_of_boxes_and_all_lie_inside():
    paths = sorted((BSDS500 / "images").glob("**/*.jpg"))[:2]
    for path in paths:
        image = read_image(path)
        for max_side in (100, 200):
            found = selective_search(image, max_side=max_side)
            assert len(found) > 20 and is_inside(found, image.shape[1], image.shape[0])
            assert found[:, 2].max() == image.shape[1] and len(np.unique(found, axis=0)) > 0.9 * len(found)


def test_proposals_lie_by_type_split_and_the_images_whole_name():
    assert str(proposal_path("p", proposal_type(None), "train", "a/b.jpg")) == "p/ss_fast/train/a/b.jpg.npy"
    assert str(proposal_path("p", proposal_type(500), "val", "b.png")) == "p/ss_fast_500/val/b.png.npy"


@pytest.mark.parametrize("count", [0, 3])
def test_what_was_written_is_read(tmp_path, count):
    boxes = np.arange(4 * count, dtype=np.uint16).reshape(count, 4)
    write_proposals(tmp_path / "a" / "b.jpg.npy", boxes)
    read = read_proposals(tmp_path / "a" / "b.jpg.npy")
    assert read.dtype == np.uint16 and np.array_equal(read, boxes)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.jpg.npy"]


def test_other_arrays_are_not_written(tmp_path):
    for boxes in (np.zeros((2, 5), np.uint16), np.zeros((2, 4), int), np.zeros(4, np.uint16)):
        with pytest.raises(ProposalError, match=r"b.npy: boxes are \(n, 4\) uint16, not"):
            write_proposals(tmp_path / "b.npy", boxes)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_named_with_the_remedy(tmp_path):
    path = tmp_path / "b.jpg.npy"
    with pytest.raises(ProposalError, match=r"b\.jpg\.npy: No such file .*make_proposals --repair"):
        read_proposals(path)
    write_proposals(path, np.ones((9, 4), np.uint16))
    whole = path.read_bytes()
    damaged = [whole[:-1], whole[:50], b"", b"PK\x03\x04", whole.replace(b"(9, 4)", b"(9, (("), b"\x80" + whole]
    for content in [*damaged, whole.replace(b"(9, 4), }      ", b"(9999999999, 4)}")]:
        path.write_bytes(content)
        with pytest.raises(ProposalError, match=r"b\.jpg\.npy: no complete \.npy file; .*make_proposals --repair"):
            read_proposals(path)
    np.save(path, np.ones((9, 4)))
    with pytest.raises(ProposalError, match=r"not \(9, 4\) float64; .*--repair"):
        read_proposals(path)


def test_boxes_outside_the_upright_image_are_a_defect(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    reasons = {
        (0, 0, 20, 40): None,
        (0, 0, 21, 1): "outside the 20 x 40",
        (3, 3, 0, 2): "empty",
        (3, 3, 2, 0): "empty",
        (0, 39, 1, 2): "outs",
    }
    for box, reason in reasons.items():
        write_proposals(tmp_path / "b.npy", np.array([box], np.uint16))
        found = find_defect(tmp_path / "b.npy", tmp_path / "turned.jpg")
        assert found is None if reason is None else reason in found
    (tmp_path / "b.npy").write_bytes(b"")
    assert find_defect(tmp_path / "b.npy", tmp_path / "turned.jpg") == "no complete .npy file"
    with pytest.raises(UnreadableImage):
        find_defect(tmp_path / "b.npy", tmp_path / "none.jpg")
