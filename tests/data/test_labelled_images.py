import numpy as np
import pytest
import torch
from PIL import Image

from data.labelled_images import LabelledCentres, LabelledViews, class_labels, collate_centres
from data.listing import find_images
from utils.errors import DataError


def write(folder, *names):
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (number * 40, 10, 10)).save(path)
    return find_images(folder, split="any")


def test_labels_are_places_in_the_sorted_names_of_the_training_classes(tmp_path):
    train = write(tmp_path / "train", "owl/1.png", "ant/1.png", "bee/1.png", "ant/deep/2.png")
    test = write(tmp_path / "test", "bee/1.png", "ant/2.png", "owl/7.png")
    classes, (train_labels, test_labels) = class_labels(train, test)
    assert classes == ["ant", "bee", "owl"]
    assert train_labels.tolist() == [0, 0, 1, 2] and test_labels.tolist() == [0, 1, 2]


def test_a_class_that_training_lacks_is_refused(tmp_path):
    train = write(tmp_path / "train", "ant/1.png", "bee/1.png")
    with pytest.raises(DataError, match="3 classes, of which .*train with its 2 lacks 1, such as cow"):
        class_labels(train, write(tmp_path / "test", "ant/1.png", "bee/1.png", "cow/1.png"))


def test_a_class_without_a_test_image_is_a_warning(tmp_path, caplog):
    train = write(tmp_path / "train", "ant/1.png", "bee/1.png")
    _, (_, labels) = class_labels(train, write(tmp_path / "test", "bee/1.png"))
    assert labels.tolist() == [1] and "1 of 2 classes have no image, such as ant" in caplog.text


def test_images_without_a_class_and_one_class_alone_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"2\.png lies in no class' folder"):
        class_labels(write(tmp_path / "loose", "ant/1.png", "2.png"))
    with pytest.raises(DataError, match="one class alone, ant"):
        class_labels(write(tmp_path / "one", "ant/1.png", "ant/2.png"))


def test_a_view_depends_on_seed_epoch_and_image_alone_and_carries_its_class(tmp_path):
    images = write(tmp_path, "ant/1.png", "bee/1.png")
    views = LabelledViews(images, np.array([0, 1]), size=16, jitter=0.4, seed=3)
    first, again, later = views[0, 1], views[0, 1], views[1, 1]
    assert first["images"].shape == (1, 3, 16, 16) and first["classes"] == 1
    torch.testing.assert_close(first, again)
    assert not torch.equal(first["boxes"], later["boxes"])


def test_colours_are_left_alone_without_jitter(tmp_path):
    images = write(tmp_path, "ant/1.png", "bee/1.png")
    plain = LabelledViews(images, np.array([0, 1]), size=16, seed=3)[0, 0]["photometric"]
    jittered = LabelledViews(images, np.array([0, 1]), size=16, jitter=0.4, seed=3)[0, 0]["photometric"]
    assert plain[0, 4] == -1 and jittered[0, 4] >= 0
    assert plain[0, 6] == 0 and plain[0, 5] == 0


def test_an_image_that_takes_anothers_place_brings_its_own_class(tmp_path):
    images = write(tmp_path, "ant/1.png", "bee/1.png")
    images.path(0).write_bytes(b"no picture")
    item = LabelledViews(images, np.array([0, 1]), size=16, seed=0)[0, 0]
    assert item["classes"] == 1 and item["unreadable"][0][0] == "ant/1.png"


def test_the_middle_is_cut_where_imagenet_cuts_it(tmp_path):
    # Columns count from the left: the middle square of 224 / 256 of 40 px in 60 x 40 begins at 12.5.
    path = tmp_path / "ant" / "1.png"
    path.parent.mkdir()
    columns = np.broadcast_to(np.arange(60, dtype=np.uint8)[None, :, None], (40, 60, 3))
    Image.fromarray(np.ascontiguousarray(columns)).save(path)
    image, label = LabelledCentres(find_images(tmp_path), np.array([4]), size=35)[0]
    assert label == 4 and image.shape == (3, 35, 35)
    assert image[0, 10, 0] in (12, 13) and image[0, 10, -1] in (46, 47)
    batch = collate_centres([(image, 4), (image, 2)])
    assert batch["images"].shape == (2, 3, 35, 35) and batch["classes"].tolist() == [4, 2]
