import numpy as np
import pytest
import torch

from data.geometry import Crop, cut_image
from models.resim import ReSim, Windows
from tests.tools.picture_log import Log
from tools.pictures import GAP, colour, resize
from tools.window_pictures import SIDE, WindowPictures
from utils.method import Progress

FLIPS = [(False, False), (False, True), (True, False), (True, True)]
FIRST, SECOND = (0.1, 0.0, 0.8, 0.7), (0.2, 0.1, 1.0, 0.9)
KINDS = (Windows("c4", 16, 12, True), Windows("c3", 12, 8, False))
NUM_OUTLINED = (4, 9)
PAIR, BETWEEN_PAIRS = 2 * SIDE + GAP, 3 * GAP


class Coordinates(torch.utils.data.Dataset):
    """Views of an image whose red is x and whose green is y, however mirrored; of the last image they share nothing."""

    def __init__(self):
        y, x = np.mgrid[:256, :256]
        self.image = np.stack([x, y, 0 * x], axis=-1).astype(np.uint8)
        overlapping = [(Crop(FIRST, a), Crop(SECOND, b)) for a, b in FLIPS]
        self.crops = [*overlapping, (Crop((0.0, 0.0, 0.5, 0.5), False), Crop((0.5, 0.5, 1.0, 1.0), True))]

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        crops = self.crops[key[1]]
        return {
            "images": torch.stack([cut_image(self.image, crop, size=64) for crop in crops]),
            "boxes": torch.tensor([crop.box for crop in crops]),
            "flips": torch.tensor([crop.flip for crop in crops]),
            "unreadable": [],
        }

    def views(self, index: int) -> np.ndarray:
        return self[0, index]["images"].permute(0, 2, 3, 1).numpy()


class Method:
    """What a picture asks of ReSim, without networks."""

    match = ReSim.match

    def __init__(self, windows: tuple[Windows, ...]):
        self.windows = windows


def draw(windows: tuple[Windows, ...], *, count: int) -> dict:
    log = Log()
    WindowPictures(Coordinates(), count=count).draw(Method(windows), 3, Progress(7, 10, 0), log)
    return log.drawn


@pytest.fixture(scope="module")
def sheet() -> np.ndarray:
    return draw(KINDS, count=5)[7, "windows"]


def tiles(sheet: np.ndarray, *, image: int, kind: int) -> list[np.ndarray]:
    """The first view and the second, of a row and a kind of windows."""
    top, left = image * (SIDE + GAP), kind * (PAIR + BETWEEN_PAIRS)
    return [sheet[top : top + SIDE, left + view * (SIDE + GAP) :][:, :SIDE] for view in (0, 1)]


def outlines(tile: np.ndarray) -> dict[int, tuple[int, int, int, int]]:
    """(x0, y0, x1, y1) of what is drawn in each of the first sixteen colours."""
    found = {}
    for number in range(16):
        y, x = np.nonzero((tile == [int(255 * channel) for channel in colour(number)]).all(-1))
        if len(y):
            found[number] = (x.min(), y.min(), x.max() + 1, y.max() + 1)
    return found


def content(tile: np.ndarray, box: tuple[int, int, int, int]) -> list[int]:
    """(x0, x1, y0, y1) of the image that lies in an outline, told by the pixels within its two lines."""
    x0, y0, x1, y1 = box
    inner = tile[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2]
    edges = np.concatenate([inner[0], inner[-1], inner[:, 0], inner[:, -1]])[:, :2]
    return [int(f(edges[:, channel])) for channel in (0, 1) for f in (np.min, np.max)]


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("image", range(len(FLIPS)))
def test_outlines_of_one_colour_surround_the_same_part_of_the_image(sheet, image, kind):
    first, second = tiles(sheet, image=image, kind=kind)
    queries, keys = outlines(first), outlines(second)
    assert list(queries) == list(keys) == list(range(NUM_OUTLINED[kind]))
    for number in queries:
        np.testing.assert_allclose(content(first, queries[number]), content(second, keys[number]), atol=3)


@pytest.mark.parametrize("kind", [0, 1])
def test_outlined_windows_have_the_windows_size_and_do_not_overlap(sheet, kind):
    boxes = outlines(tiles(sheet, image=0, kind=kind)[0]).values()
    covered = np.zeros((SIDE, SIDE), dtype=int)
    for x0, y0, x1, y1 in boxes:
        covered[y0:y1, x0:x1] += 1
        np.testing.assert_allclose([x1 - x0, y1 - y0], KINDS[kind].size * SIDE / 64, atol=1)
    assert covered.max() == 1


def test_only_what_compared_windows_cover_is_bright(sheet):
    # The second view begins at 9 of the first one's 64 pixels; its first whole window begins at 16, and the last ends at 60.
    for tile, view, (start, end) in zip(tiles(sheet, image=0, kind=1), Coordinates().views(0), ((16, 60), (6, 44.5))):
        photo = resize(view, SIDE)
        dark = (tile == (0.4 * photo).astype(np.uint8)).all(-1)
        start, end = round(start / 64 * SIDE), round(end / 64 * SIDE)
        inside = np.zeros((SIDE, SIDE), dtype=bool)
        inside[start:end, start:end] = True
        assert dark[~inside].all()
        assert (tile == photo).all(-1)[inside].mean() > 0.5


def test_nothing_is_outlined_where_the_views_share_nothing(sheet):
    for kind in (0, 1):
        for tile, view in zip(tiles(sheet, image=4, kind=kind), Coordinates().views(4)):
            assert np.array_equal(tile, (0.4 * resize(view, SIDE)).astype(np.uint8))


def test_a_row_is_an_image_and_holds_a_pair_of_views_for_each_kind_of_windows(sheet):
    assert sheet.shape == (5 * SIDE + 4 * GAP, 2 * PAIR + BETWEEN_PAIRS, 3)
    assert draw(KINDS[:1], count=2)[7, "windows"].shape == (2 * SIDE + GAP, PAIR, 3)


@pytest.mark.parametrize(("windows", "count"), [((), 3), (KINDS, 0)])
def test_without_windows_or_images_there_is_no_picture(windows, count):
    assert draw(windows, count=count) == {}


def test_windows_of_a_resumed_epoch_are_not_drawn_again():
    log, pictures = Log(), WindowPictures(Coordinates(), count=1)
    for _ in range(2):
        pictures.draw(Method(KINDS), 3, Progress(7, 10, 0), log)
    assert list(log.drawn) == [(7, "windows")]


def test_a_window_of_less_than_a_pixel_does_no_harm():
    dataset = Coordinates()
    dataset.crops = [(Crop((0.5, 0.5, 0.502, 0.502), False), Crop((0.0, 0.0, 1.0, 1.0), False))]
    log = Log()
    WindowPictures(dataset, count=1).draw(Method(KINDS), 0, Progress(0, 1, 0), log)
    assert len(log.drawn) == 1
