import numpy as np
import pytest
import torch

from data.correspondence import Correspondence
from data.images import read_image
from data.listing import ImageList, find_images
from data.ragged import Ragged
from tests.tools.picture_log import Log
from tools.orl_pictures import (
    NUM_PAIRS,
    PatchPictures,
    neighbour_sheet,
    outline,
    pair_sheet,
    proposal_sheet,
)
from tools.pictures import GAP, TILE, colour, resize
from utils.method import Progress

STEP, BETWEEN = TILE + GAP, 2 * GAP  # from tile to tile, and what lies between groups beside it


@pytest.fixture
def images(eight_photos) -> ImageList:
    """Eight photographs of 30 x 24 pixels, of which the last cannot be read."""
    (eight_photos / "images" / "train" / "7.png").write_bytes(b"no image")
    return find_images(eight_photos)


def tile(sheet: np.ndarray, row: int, column: int, groups: int = 0) -> np.ndarray:
    """A tile that has so many ends of groups on its left."""
    left = column * STEP + groups * BETWEEN
    return sheet[row * STEP : row * STEP + TILE, left : left + TILE]


def photo(images: ImageList, index: int) -> np.ndarray:
    return resize(read_image(images.path(index)))


def painted(picture: np.ndarray, number: int) -> np.ndarray:
    """Where it has the colour of a number."""
    return (picture == [int(255 * channel) for channel in colour(number)]).all(-1)


def extent(mask: np.ndarray) -> list[int]:
    """[x0, y0, x1, y1] around what is true."""
    y, x = np.nonzero(mask)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_neighbours_stand_beside_their_image(images):
    neighbours = np.array([[1, 2], [2, -1], [7, 0], [0, 1], [0, 1], [0, 1], [0, 1], [-1, -1]], dtype=np.int32)
    sheet = neighbour_sheet(images, neighbours, [0, 2, 1, 7])
    assert sheet.shape == (4 * STEP - GAP, 3 * STEP - GAP + BETWEEN, 3)
    for row, expected in enumerate([(0, 1, 2), (2, None, 0), (1, 2, -1)]):
        for column, image in enumerate(expected):
            found = tile(sheet, row, column, groups=column > 0)
            if image is None:
                assert (found == 128).all()
            else:
                assert np.array_equal(found, photo(images, image)) if image >= 0 else (found == 255).all()
    assert (tile(sheet, 3, 0) == 128).all() and (tile(sheet, 3, 1, 1) == 255).all()


def test_boxes_are_outlined_where_they_are():
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3)).astype(np.uint8)
    boxes = np.array([[32, 8, 64, 24], [100, 60, 28, 4], [0, 0, 128, 64]], dtype=np.uint16)
    drawn = outline(image, boxes)
    assert drawn.shape == (TILE, TILE, 3)
    for number, box in enumerate(boxes.astype(int)):
        expected = np.array([box[0] / 128, box[1] / 64, (box[0] + box[2]) / 128, (box[1] + box[3]) / 64]) * TILE
        np.testing.assert_allclose(extent(painted(drawn, number)), expected, atol=1)
    # Within its lines the photo is as it was.
    assert np.array_equal(drawn[25:75, 45:115], resize(image)[25:75, 45:115])


def test_a_box_that_comes_again_is_drawn_within_itself():
    boxes = np.array([[10, 10, 60, 60]] * 3)
    drawn = outline(np.zeros((TILE, TILE, 3), np.uint8), boxes)
    extents = [extent(painted(drawn, number)) for number in range(3)]
    assert extents == [[10 + 3 * n, 10 + 3 * n, 70 - 3 * n, 70 - 3 * n] for n in range(3)]


def test_a_box_of_less_than_a_pixel_of_the_tile_is_seen():
    drawn = outline(np.zeros((2000, 2000, 3), np.uint8), np.array([[1000, 1000, 1, 1], [0, 0, 1, 1]]))
    assert painted(drawn, 0)[80, 80] and painted(drawn, 1)[0, 0]


def test_proposals_are_drawn_on_the_dark_photo_beside_the_photo(images):
    rows = [[[0, 0, 15, 12], [15, 12, 15, 12]]] + [[]] * 7
    sheet = proposal_sheet(images, Ragged.from_rows(rows, width=4, dtype=np.uint16), [0, 3, 7])
    assert sheet.shape == (3 * STEP - GAP, 2 * STEP - GAP, 3)
    assert np.array_equal(tile(sheet, 0, 0), photo(images, 0))
    drawn = tile(sheet, 0, 1)
    assert extent(painted(drawn, 0)) == [0, 0, 80, 80] and extent(painted(drawn, 1)) == [80, 80, 160, 160]
    # A hundred boxes must leave the photo to be seen: one pixel is outline, the next is photo.
    assert painted(drawn, 0).sum() == 4 * 79
    dark = resize((0.5 * read_image(images.path(0))).astype(np.uint8))
    assert np.array_equal(drawn[1:79, 1:79], dark[1:79, 1:79])
    assert not any(painted(tile(sheet, 1, 1), number).any() for number in range(3))
    assert abs(tile(sheet, 1, 1).mean() / photo(images, 3).mean() - 0.5) < 0.02
    assert (tile(sheet, 2, 0) == 128).all()


@pytest.fixture
def correspondence() -> Correspondence:
    """Image 0 has two pairs with its second neighbour, 3; image 1 has none; image 2's neighbour cannot be read."""
    neighbours = np.array([[5, 3], [2, 0], [7, 1], *[[-1, -1]] * 5], dtype=np.int32)
    left, right = [0, 0, 15, 24], [15, 0, 15, 24]
    pairs = [[] for _ in range(16)]
    pairs[1] = [[*left, *right], [*right, *left]]
    pairs[4] = [[*left, 500, 0, 15, 24]] * (NUM_PAIRS + 2)
    boxes = Ragged.from_rows([[]] * 8, width=4, dtype=np.uint16)
    return Correspondence(boxes, neighbours, Ragged.from_rows(pairs, width=8, dtype=np.uint16))


def test_pairs_are_outlined_in_one_colour_and_their_contents_stand_beside_each_other(images, correspondence):
    sheet = pair_sheet(images, correspondence, [0, 1, 2])
    assert sheet.shape == (3 * STEP - GAP, (2 + 2 * NUM_PAIRS) * STEP - GAP + NUM_PAIRS * BETWEEN, 3)
    left, right = [0, 0, 80, 160], [80, 0, 160, 160]
    ours, theirs = tile(sheet, 0, 0), tile(sheet, 0, 1)
    assert [extent(painted(ours, number)) for number in (0, 1)] == [left, right]
    assert [extent(painted(theirs, number)) for number in (0, 1)] == [right, left]
    inner = (slice(4, -4), slice(4, -4))
    for number, halves in enumerate([("left", "right"), ("right", "left")]):
        for side, (image, half) in enumerate(zip((0, 3), halves)):
            content = tile(sheet, 0, 2 + 2 * number + side, groups=1 + number)
            cut = read_image(images.path(image))[:, :15] if half == "left" else read_image(images.path(image))[:, 15:]
            assert np.array_equal(content[inner], resize(np.ascontiguousarray(cut))[inner])
            assert painted(content, number)[0].all() and painted(content, number)[:, -1].all()
    assert (tile(sheet, 0, 6, groups=3) == 255).all()


def test_an_image_without_pairs_or_with_an_unreadable_neighbour_is_drawn_as_far_as_it_goes(images, correspondence):
    sheet = pair_sheet(images, correspondence, [1, 2])
    assert np.array_equal(tile(sheet, 0, 0), photo(images, 1)) and (sheet[:TILE, STEP:] == 255).all()
    assert (tile(sheet, 1, 1)[:, :150] == 128).all() and (tile(sheet, 1, 3, groups=1)[4:-4, 4:-4] == 128).all()
    assert not (tile(sheet, 1, 2 + 2 * NUM_PAIRS - 1, groups=NUM_PAIRS) == 255).all()


class Patches(torch.utils.data.Dataset):
    """Every tile has a brightness of its own: 10 times the image's index, and its place in the row."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, key: tuple[int, int]) -> dict:
        brightness = 10 * key[1] + torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1)
        return {
            "images": brightness[:2].expand(2, 3, 32, 32),
            "patches": brightness[2:].expand(4, 3, 12, 12),
            "unreadable": [],
        }


def test_patches_stand_in_pairs_behind_their_views():
    log, pictures = Log(), PatchPictures(Patches(), count=3)
    for _ in range(2):
        pictures.draw(None, 4, Progress(7, 10, 0), log)
    ((key, sheet),) = log.drawn.items()
    assert key == (7, "patches") and sheet.shape == (3 * STEP - GAP, 6 * STEP - GAP + 2 * BETWEEN, 3)
    for row, image in enumerate((0, 4, 8)):
        for column in range(6):
            assert (tile(sheet, row, column, groups=column // 2) == 10 * image + column).all()
