import numpy as np
import pytest
from PIL import Image

from data.cub import CubFolder
from tests.evaluation.small_sets import make_birds
from utils.errors import DataError


@pytest.fixture
def root(tmp_path):
    return make_birds(tmp_path / "CUB_200_2011")


def test_splits_are_those_of_the_lists_in_their_order(root):
    birds = CubFolder(root)
    names = [f"00{number % 2}.Kind/Bird_{number}.jpg" for number in range(6)]
    assert birds.names("all") == names
    assert birds.names("train") == names[::2] and birds.names("test") == names[1::2]
    assert all(birds.image_path(name).is_file() for name in names)


def test_a_bird_is_where_more_than_half_of_the_annotators_see_it(root):
    birds = CubFolder(root)
    (bird,) = birds(birds.names("all")[2])
    expected = np.zeros((30, 40), dtype=np.uint8)
    expected[4:20, 7:27] = 1
    assert (bird == expected).all() and birds.background


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_segmentations_that_are_not_plain_grey_are_read(root, mode):
    name = "000.Kind/Bird_0"
    plain = CubFolder(root)(f"{name}.jpg")[0]
    path = root / "segmentations" / f"{name}.png"
    Image.open(path).convert(mode).save(path)
    assert (CubFolder(root)(f"{name}.jpg")[0] == plain).all()


def test_segmentations_may_lie_beside_the_photographs_folder(root):
    (root / "segmentations").rename(root.parent / "segmentations")
    assert CubFolder(root)("000.Kind/Bird_0.jpg")[0].sum() == 16 * 20


def test_what_is_missing_is_named(root):
    birds = CubFolder(root)
    with pytest.raises(DataError, match="'val'; there are train, test and all"):
        birds.names("val")
    with pytest.raises(DataError, match="Bird_9.png: no such file"):
        birds("000.Kind/Bird_9.jpg")
    (root / "segmentations" / "000.Kind" / "Bird_0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="Bird_0.png"):
        birds("000.Kind/Bird_0.jpg")
    (root / "train_test_split.txt").write_text("1\n")
    with pytest.raises(DataError, match="train_test_split.txt: each line"):
        birds.names("test")
    with pytest.raises(DataError, match="segmentations"):
        CubFolder(root.parent)
