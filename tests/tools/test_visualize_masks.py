from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from data.images import read_image
from data.label_maps import write_label_map
from data.listing import ImageList, find_images
from data.masked_views import MaskFolder
from evaluation.truths import HumanSegments
from tests.tools.picture_log import Log
from tools import visualize_masks
from tools.pictures import GAP, TILE, colour, resize
from tools.run_masks import find_generations
from tools.visualize_masks import GenerationPictures, follow_labels, generation_sheet, main

CAPTION = 16
DOWN, ACROSS = TILE + CAPTION + GAP, TILE + GAP
GREY = (128, 128, 128)


def halves(first: int, second: int) -> np.ndarray:
    """(24, 30): two labels beside each other."""
    return np.repeat([[first, second]], 15, axis=1).repeat(24, axis=0)


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Tiles painted at their own size, which takes a ninth of the time."""
    monkeypatch.setattr(visualize_masks, "_FINER", 1)


@pytest.fixture
def images(eight_photos) -> ImageList:
    """Eight white photographs of 30 x 24 pixels with two generations of maps; the last cannot be read, 3 has one map only."""
    for number in range(8):
        Image.new("RGB", (30, 24), "white").save(eight_photos / "images" / "train" / f"{number}.png")
        write_label_map(eight_photos / "masks" / "grid1x2" / "train" / f"{number}.png.png", halves(0, 1))
        if number != 3:
            write_label_map(eight_photos / "run" / "masks" / "gen_0001" / "train" / f"{number}.png.png", halves(1, 0))
    (eight_photos / "images" / "train" / "7.png").write_bytes(b"no image")
    return find_images(eight_photos)


@pytest.fixture
def folders(eight_photos) -> list[MaskFolder]:
    return [MaskFolder(eight_photos / "masks", "grid1x2"), MaskFolder(eight_photos / "run" / "masks", "gen_0001")]


def tile(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    top, left = row * DOWN + CAPTION, column * ACROSS
    return sheet[top : top + TILE, left : left + TILE]


def caption(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    return sheet[row * DOWN : row * DOWN + CAPTION, column * ACROSS : column * ACROSS + TILE]


def sides(picture: np.ndarray) -> list[tuple[int, ...]]:
    """The colours left and right."""
    return [tuple(picture[TILE // 2, x].tolist()) for x in (TILE // 4, 3 * TILE // 4)]


def painted(number: int) -> tuple[int, ...]:
    """A number's colour on a white photo."""
    return tuple(int(255 * channel) for channel in colour(number))


def test_a_region_keeps_its_colour_from_generation_to_generation(images, folders):
    sheet = generation_sheet(images, folders, [0, 5])
    assert sheet.shape == (2 * DOWN - GAP, 3 * ACROSS - GAP, 3)
    for row in range(2):
        assert np.array_equal(tile(sheet, row, 0), resize(read_image(images.path(0))))
        # The second generation numbers the same halves the other way round.
        assert sides(tile(sheet, row, 1)) == sides(tile(sheet, row, 2)) == [painted(0), painted(1)]


def test_every_tile_has_its_caption(images, folders):
    sheet = generation_sheet(images, folders, [0, 1])
    captions = [caption(sheet, 0, column) for column in range(3)]
    assert all((one < 128).any() and (one[0] == 255).all() for one in captions)
    assert not np.array_equal(captions[0], captions[1]) and not np.array_equal(captions[1], captions[2])
    assert np.array_equal(caption(sheet, 1, 1), captions[1]) and not np.array_equal(caption(sheet, 1, 0), captions[0])


def test_a_name_that_is_no_text_is_captioned_all_the_same(images):
    odd = ImageList(images.root, images.split, np.array([b"caf\xe9.png"]))
    assert (caption(generation_sheet(odd, [], [0]), 0, 0) < 128).any()


def test_the_lines_between_small_clusters_leave_their_colours_to_be_seen(monkeypatch, images, tmp_path):
    # Cells of 4 pixels of the tile, as a network's features have.
    write_label_map(tmp_path / "fine" / "train" / "0.png.png", np.indices((40, 40)).sum(0) % 2)

    def whiteness() -> float:
        sheet = generation_sheet(images, [MaskFolder(tmp_path, "fine")], [0])
        return tile(sheet, 0, 1).min(-1).mean() / 255

    coarse = whiteness()
    monkeypatch.undo()
    assert coarse > 0.8 and whiteness() < 0.6


def test_what_cannot_be_read_is_a_grey_tile(images, folders):
    sheet = generation_sheet(images, folders, [3, 7])
    assert sides(tile(sheet, 0, 1)) == [painted(0), painted(1)] and (tile(sheet, 0, 2) == GREY).all()
    assert (tile(sheet, 1, 0) == GREY).all()
    images.path(3).unlink()
    (folders[0].mask_dir / "grid1x2" / "train" / "3.png.png").write_bytes(b"no map")
    assert (tile(generation_sheet(images, folders, [3]), 0, 1) == GREY).all()


class People:
    """One person, who drew the same in every image."""

    def __init__(self, drawn: np.ndarray, *, background: bool = True):
        self.drawn, self.background = drawn, background

    def __call__(self, name: str) -> list[np.ndarray]:
        return [self.drawn]


def test_the_truth_stands_last_with_its_background_grey(images, folders):
    sheet = generation_sheet(images, folders, [0], truth=People(halves(0, 4)))
    assert sides(tile(sheet, 0, 3)) == [(153, 153, 153), painted(1)]
    # Where 0 is a segment, it has a colour; and the background is not counted.
    others = generation_sheet(images, folders, [0], truth=People(halves(0, 4), background=False))
    assert sides(tile(others, 0, 3)) == [painted(0), painted(1)]
    one = generation_sheet(images, folders, [0], truth=People(halves(7, 7)))
    assert np.array_equal(caption(sheet, 0, 3), caption(one, 0, 3))
    assert not np.array_equal(caption(sheet, 0, 3), caption(others, 0, 3))


def test_a_truth_without_objects_is_grey_and_one_that_is_missing_too(images, folders, tmp_path):
    nothing = People(halves(0, 0))
    assert sides(tile(generation_sheet(images, folders, [0], truth=nothing), 0, 3)) == [(153, 153, 153)] * 2
    assert sides(tile(generation_sheet(images, [], [0], truth=nothing), 0, 1)) == [(153, 153, 153)] * 2
    Image.fromarray(halves(0, 4).astype(np.uint8)).save(tmp_path / "0_0.png")
    sheet = generation_sheet(images, folders, [0, 1], truth=HumanSegments(tmp_path))
    assert sides(tile(sheet, 0, 3)) == [painted(0), painted(1)] and (tile(sheet, 1, 3) == GREY).all()


def test_regions_are_followed_in_the_pairs_that_share_the_most_pixels_together():
    before = np.array([[5, 5, 5, 5, 5, 5, 8, 8, 8]])
    # 0 is most like 5, but then 1 would be like nothing: 4 pixels in common, where the other way there are 5.
    labels = np.array([[1, 1, 0, 0, 0, 0, 0, 0, 0]])
    assert follow_labels(before, labels).tolist() == [[5, 5, 8, 8, 8, 8, 8, 8, 8]]


def test_a_region_that_nothing_was_like_gets_a_number_that_was_not_there():
    before = np.array([[0, 0, 0, 2, 2, 1]])
    labels = np.array([[0, 0, 7, 3, 3, -4]])
    # Not 1 either, which is gone.
    assert follow_labels(before, labels).tolist() == [[0, 0, 3, 2, 2, -1]]


def test_following_only_renumbers():
    rng = np.random.default_rng(0)
    before, labels = rng.integers(7, size=(20, 20)), rng.integers(-1, 12, size=(20, 20))
    followed = follow_labels(before, labels)
    assert len(set(zip(labels.ravel().tolist(), followed.ravel().tolist()))) == 13 == len(np.unique(followed))
    assert np.array_equal(followed < 0, labels < 0)


def test_a_run_draws_a_sheet_a_generation(images, folders):
    log, pictures = Log(), GenerationPictures(images, count=3)
    for step, count in ((0, 1), (4, 1), (8, 2), (12, 2)):
        pictures.draw(step, folders[:count], log)
    assert [(step, name, sheet.shape[1]) for (step, name), sheet in log.drawn.items()] == [
        (0, "generations", 2 * ACROSS - GAP),
        (8, "generations", 3 * ACROSS - GAP),
    ]
    # What a run that goes on has drawn before, it does not draw again.
    GenerationPictures(images, count=3).draw(8, folders, log)
    assert np.array_equal(log.drawn[8, "generations"], generation_sheet(images, folders, [0, 3, 7]))


def test_a_run_of_many_generations_draws_the_first_the_last_and_some_between(images, folders):
    log = Log()
    GenerationPictures(images, count=1).draw(0, [*folders[:1] * 99, folders[1]], log)
    (sheet,) = log.drawn.values()
    assert sheet.shape[1] == 13 * ACROSS - GAP
    assert np.array_equal(caption(sheet, 0, 12), caption(generation_sheet(images, folders, [0]), 0, 2))


def test_no_sheet_is_drawn_where_none_is_wanted(images, folders):
    log = Log()
    GenerationPictures(images, count=0).draw(0, folders, log)
    assert log.drawn == {}


@pytest.fixture
def run(eight_photos, images):
    data = {"image_dir": str(eight_photos), "split": "train", "subset": "", "mask_dir": None, "mask_type": "grid1x2"}
    (eight_photos / "run" / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    return eight_photos / "run"


def test_the_command_draws_the_first_masks_and_every_generation(run, images, folders, capsys):
    assert main([str(run), "--count", "2"]) == 0
    assert capsys.readouterr().out.split() == [str(run / "generations.png")]
    sheet = np.asarray(Image.open(run / "generations.png"))
    assert np.array_equal(sheet, generation_sheet(images, folders, [0, 7]))
    output = run / "other.png"
    assert main([str(run), "--count", "99", "--columns", "1", "--output", str(output)]) == 0
    assert Image.open(output).size == (2 * ACROSS - GAP, 8 * DOWN - GAP)


def test_the_command_adds_the_truth_that_it_is_given(run, images, folders, tmp_path):
    (tmp_path / "people").mkdir()
    Image.fromarray(halves(0, 4).astype(np.uint8)).save(tmp_path / "people" / "0_0.png")
    assert main([str(run), "--count", "1", "--segments", str(tmp_path / "people")]) == 0
    expected = generation_sheet(images, folders, [0], truth=HumanSegments(tmp_path / "people"))
    assert np.array_equal(np.asarray(Image.open(run / "generations.png")), expected)


def test_a_run_that_began_with_masks_of_its_own_shows_no_others(run, images, folders):
    (run / "masks" / "gen_0000" / "train").mkdir(parents=True)
    settings = yaml.safe_load((run / "config.yaml").read_text())["data"]
    own = MaskFolder(run / "masks", "gen_0000")
    assert find_generations(run, settings, images) == [own, folders[1]]
    (run / "masks" / "gen_0000" / "train").rmdir()
    assert [Path(*one) for one in find_generations(run, settings, images)] == [Path(*one) for one in folders]


def test_what_a_run_lacks_is_said(run, eight_photos, caplog):
    assert main([str(eight_photos)]) == 2
    assert "no config.yaml there" in caplog.text
    assert main([str(run), "--segments", str(run / "nowhere")]) == 3
    content = (run / "config.yaml").read_text().replace("grid1x2", "fh")
    (run / "config.yaml").write_text(content)
    (run / "masks").rename(run / "elsewhere")
    assert main([str(run)]) == 2
    assert "holds label maps" in caplog.text
