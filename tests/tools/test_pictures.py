import numpy as np
import pytest
import torch
from PIL import Image

from models.backbone import make_trunk
from models.detconb import DetCon
from models.heads import MLP
from models.r2o import R2O
from tools.pictures import TILE, RegionPictures, SampledMaskPictures, colour, paint_regions, region_row, story
from utils.method import Progress


class Dataset(torch.utils.data.Dataset):
    """Twenty grey images, brighter with their index."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, key: tuple[int, int]) -> dict:
        superpixels = torch.arange(16, dtype=torch.uint8).view(4, 4).repeat_interleave(8, 0).repeat_interleave(8, 1)
        spanning = torch.full((3, 32, 32), 10 * key[1], dtype=torch.uint8)
        return {
            "spanning": spanning,
            "images": torch.zeros(2, 3, 32, 32),
            "superpixels": superpixels,
            "seed": key[1],
            "unreadable": [],
        }


class Log:
    def __init__(self):
        self.drawn = []

    def has_picture(self, step, name):
        return False

    def pictures(self, step, name, picture):
        self.drawn.append((step, name, picture))


def prepare(batch: dict) -> dict:
    return batch | {"spanning": batch["spanning"] / 255}


def test_drawing_leaves_the_method_as_it_was():
    trunk = make_trunk("resnet_tiny", width=8)
    model = R2O(
        trunk,
        MLP(64, hidden_dim=8, output_dim=4),
        MLP(4, hidden_dim=8, output_dim=4),
        momentum=lambda progress: 0.9,
        num_clusters=lambda progress: 3,
    ).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    log = Log()
    pictures = RegionPictures(Dataset(), count=3, group=5)
    for _ in range(2):
        pictures.draw(model, Progress(7, 10, 0), log, prepare, torch.device("cpu"))
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    (step, name, first), (_, _, second) = log.drawn
    assert (step, name) == (7, "regions") and np.array_equal(first, second)
    # Three rows from the whole listing: its first, middle and last image.
    brightness = [first[row * (TILE + 4) + 5, 5].tolist() for row in range(3)]
    assert brightness[0] == [0] * 3 and brightness[2] == [190] * 3


def test_no_pictures_are_made_where_none_are_wanted():
    log = Log()
    RegionPictures(Dataset(), count=0, group=5).draw(None, Progress(0, 1, 0), log, prepare, torch.device("cpu"))
    assert log.drawn == []


def test_maps_of_any_size_fill_their_tile():
    row = region_row(np.zeros((30, 50, 3), np.uint8), np.zeros((224, 224), np.uint8), -np.ones((56, 56), np.int64))
    assert row.shape == (TILE, 3 * TILE + 2 * 4, 3)


def test_each_label_has_its_own_colour_and_borders_are_white():
    assert len({colour(label) for label in range(128)}) == 128
    labels = np.zeros((10, 10), np.int64)
    labels[:, 5:] = 1
    drawn = paint_regions(np.full((10, 10, 3), 128, np.uint8), labels)
    assert (drawn[:, 4:6] == 255).all() and (drawn[0, 0] != drawn[0, 9]).any()


def test_a_story_shows_photo_and_superpixels_once(tmp_path):
    for step in range(9):
        Image.fromarray(np.full((TILE, 3 * TILE + 8, 3), step, np.uint8)).save(tmp_path / f"regions_{step:08d}.png")
    sheet = story(tmp_path, columns=3)
    assert sheet.shape == (TILE, 5 * TILE + 4 * 4, 3)
    assert [int(sheet[0, column * (TILE + 4), 0]) for column in range(5)] == [0, 0, 0, 4, 8]
    with pytest.raises(SystemExit, match="no regions"):
        story(tmp_path / "nowhere")


class MaskedPair(torch.utils.data.Dataset):
    """A white image with four labels, a quarter each, and its mirror; every number draws the first or the last label."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, key: tuple[int, int]) -> dict:
        labels = torch.arange(4, dtype=torch.uint8).view(2, 2).repeat_interleave(16, 0).repeat_interleave(16, 1)
        return {
            "images": torch.full((2, 3, 32, 32), 255, dtype=torch.uint8),
            "labels": torch.stack([labels, labels.flip(1)]),
            "uniforms": torch.tensor([0.0, 0.99]).expand(2, 2, 2),
            "unreadable": [],
        }


def test_sampled_masks_are_painted_on_both_views():
    trunk = make_trunk("resnet_tiny", width=4)
    model = DetCon(trunk, MLP(32, hidden_dim=8, output_dim=4), None, pool_size=4, momentum=lambda progress: 0.9)
    log = Log()
    SampledMaskPictures(MaskedPair(), count=2).draw(model, 5, Progress(7, 10, 0), log)
    ((step, name, sheet),) = log.drawn
    assert (step, name) == (7, "masks")
    assert sheet.shape == (2 * TILE + 4, 6 * TILE + 5 * 4, 3)

    def colours(column: int) -> list[tuple[int, ...]]:
        """Of the four quarters' centres, row by row."""
        left = column * (TILE + 4)
        places = [(y, x) for y in (TILE // 4, 3 * TILE // 4) for x in (TILE // 4, 3 * TILE // 4)]
        return [tuple(sheet[y, left + x].tolist()) for y, x in places]

    a, b, c, d = (tuple(int(255 * channel) for channel in colour(label)) for label in range(4))
    grey = (153, 153, 153)
    white = (255, 255, 255)
    assert colours(0) == colours(3) == [white] * 4
    assert colours(1) == [a, b, c, d] and colours(4) == [b, a, d, c]
    assert colours(2) == [a, grey, grey, d] and colours(5) == [grey, a, d, grey]


def test_sampled_masks_of_a_resumed_epoch_are_not_drawn_again():
    log = Log()
    log.has_picture = lambda step, name: (step, name) == (7, "masks")
    SampledMaskPictures(MaskedPair(), count=2).draw(None, 5, Progress(7, 10, 0), log)
    assert log.drawn == []
