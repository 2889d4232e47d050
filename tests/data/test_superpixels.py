import numpy as np
import pytest

from data.superpixels import slic_labels, superpixel_type
from tests.paths import REFERENCE


def test_superpixels_equal_the_releases():
    with np.load(REFERENCE / "fh_slic_masks.npz") as reference:
        for name in reference["names"]:
            labels = slic_labels(reference[f"{name}_resized224"], size=224, segments=100)
            assert np.array_equal(labels, reference[f"{name}_slic100"])


def test_the_whole_photo_is_resized_as_in_the_release():
    with np.load(REFERENCE / "fh_slic_masks.npz") as reference:
        assert np.array_equal(slic_labels(reference["coffee_image"]), reference["coffee_slic100"])


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 150, 3), (60, 40, 3)])
def test_any_image_gives_dense_ids_from_0(shape):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    labels = slic_labels(image, size=32, segments=20)
    assert labels.shape == (32, 32) and labels.dtype == np.uint8
    assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))


@pytest.mark.parametrize("size", [None, 0])
def test_without_a_size_the_map_has_the_images(size):
    image = np.linspace(0, 255, 40 * 60 * 3).reshape(40, 60, 3).astype(np.uint8)
    labels = slic_labels(image, size=size, segments=20)
    assert labels.shape == (40, 60) and labels.max() > 5


def test_the_type_names_segments_and_size():
    assert superpixel_type(segments=100, size=224) == "slic100_224"
    assert superpixel_type(segments=100, size=None) == "slic100"
