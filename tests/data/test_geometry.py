import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from data.geometry import WHOLE, Crop, cut_image, cut_labels, draw_crop
from data.images import read_image
from tests.paths import BSDS500, needs_photographs

BYOL = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "flip_probability": 0.5}


def coordinates(height, width):
    rows, columns = np.indices((height, width))
    return np.stack([columns, rows, np.zeros_like(rows)], axis=2).astype(np.uint8)


def drawn(count, height, width, **changes):
    rng = np.random.default_rng(0)
    return [draw_crop(rng, height, width, **{**BYOL, **changes}) for _ in range(count)]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("box", [(0.0, 0.0, 1.0, 1.0), (0.25, 0.1, 0.75, 0.4), (0.5, 0.5, 1.0, 1.0)])
def test_an_image_of_coordinates_comes_out_where_the_crop_says(box, flip):
    height, width, size = 120, 200, 40
    crop = Crop(box, flip)
    steps = (np.arange(size) + 0.5) / size
    x = (box[0] + steps * (box[2] - box[0])) * width
    y = (box[1] + steps * (box[3] - box[1])) * height
    x = x[::-1] if flip else x

    view = cut_image(coordinates(height, width), crop, size=size).numpy().astype(float)
    # A pixel's value is its index, half a pixel before its centre; at the border the kernel is cut off.
    inner = slice(2, -2)
    assert np.abs(view[0] + 0.5 - x)[:, inner].max() <= 0.75
    assert np.abs(view[1].T + 0.5 - y)[:, inner].max() <= 0.75

    rows, columns = np.indices((height, width))
    labels = cut_labels((rows * width + columns).astype(np.uint16), crop, size=size).numpy()
    assert np.abs(labels % width + 0.5 - x).max() <= 0.5
    assert np.abs((labels // width).T + 0.5 - y).max() <= 0.5


def test_drawn_crops_put_image_and_labels_in_the_same_place():
    image = coordinates(90, 150)
    for crop in drawn(30, 90, 150):
        view = cut_image(image, crop, size=32).numpy()[:2].astype(int)
        labels = np.stack([cut_labels(image[..., channel], crop, size=32).numpy() for channel in (0, 1)]).astype(int)
        span = max((crop.box[2] - crop.box[0]) * 150, (crop.box[3] - crop.box[1]) * 90) / 32
        assert np.abs(view - labels)[:, 2:-2, 2:-2].max() <= 1 + span / 2


def test_a_view_equals_pils_crop_and_resize(photo):
    height, width, _ = photo.shape
    for crop in drawn(20, height, width) + [WHOLE]:
        for size in (24, 64, 200):
            box = np.round(np.array(crop.box) * [width, height, width, height]).astype(int).tolist()
            expected = Image.fromarray(photo).crop(box).resize((size, size), Image.Resampling.BICUBIC)
            if crop.flip:
                expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            view = cut_image(photo, crop, size=size).permute(1, 2, 0).numpy().astype(int)
            assert np.abs(view - np.asarray(expected)).max() <= 2


@needs_photographs
def test_views_of_photographs_equal_pils():
    for path in sorted((BSDS500 / "images").rglob("*.jpg"))[:12]:
        image = read_image(path)
        height, width, _ = image.shape
        crop = drawn(1, height, width, flip_probability=0.0)[0]
        box = np.round(np.array(crop.box) * [width, height, width, height]).astype(int).tolist()
        expected = Image.fromarray(image).crop(box).resize((224, 224), Image.Resampling.BICUBIC)
        error = np.abs(cut_image(image, crop, size=224).permute(1, 2, 0).numpy().astype(int) - np.asarray(expected))
        # PIL and torch may resize rows and columns in another order; where one overshoots 0 or 255 the results differ.
        assert (error > 2).mean() < 0.003 and error.mean() < 0.5


def test_a_view_is_torchs_resizing_of_the_crop_bit_for_bit():
    rng = np.random.default_rng(0)
    for _ in range(40):
        height, width, size = rng.integers(1, 60, 3).tolist()
        image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        crop = drawn(1, height, width)[0]
        left, top, right, bottom = np.round(np.array(crop.box) * [width, height, width, height]).astype(int).tolist()
        part = torch.from_numpy(image[top:bottom, left:right].copy()).permute(2, 0, 1)[None].contiguous()
        expected = torch.nn.functional.interpolate(part, (size, size), mode="bicubic", antialias=True)[0]
        view = cut_image(image, crop, size=size)
        assert view.is_contiguous() and torch.equal(view, expected.flip(-1) if crop.flip else expected)


def test_a_flipped_view_is_the_mirrored_view(photo):
    labels = photo[..., 0].copy()
    for box in ((0.0, 0.0, 1.0, 1.0), (0.1, 0.2, 0.6, 0.9)):
        straight, flipped = Crop(box, False), Crop(box, True)
        assert torch.equal(cut_image(photo, flipped, size=31), cut_image(photo, straight, size=31).flip(-1))
        assert torch.equal(cut_labels(labels, flipped, size=31), cut_labels(labels, straight, size=31).flip(-1))


def test_a_label_map_of_another_size_than_the_image_is_cut_alike():
    labels = np.array([[0, 1], [2, 3]], dtype=np.uint8)
    assert cut_labels(labels, WHOLE, size=4).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert cut_labels(labels, Crop((0.5, 0.0, 1.0, 0.5), True), size=2).tolist() == [[1, 1], [1, 1]]
    assert cut_labels(labels.astype(np.uint16), WHOLE, size=2).dtype == torch.int32


def test_crops_lie_on_whole_pixels_within_scale_and_ratio():
    height, width = 97, 143
    for crop in drawn(300, height, width):
        pixels = np.array(crop.box) * [width, height, width, height]
        assert np.abs(pixels - pixels.round()).max() < 1e-9
        left, top, right, bottom = pixels.round()
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        w, h = right - left, bottom - top
        assert 0.07 < w * h / (height * width) <= 1
        assert 0.7 < w / h < 1.42


def test_crops_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    height, width, count = 60, 100, 4000
    blank = torch.zeros(1, height, width)
    theirs = [RandomResizedCrop.get_params(blank, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    theirs = np.array([(j, i, j + w, i + h) for i, j, h, w in theirs]) / [width, height, width, height]
    ours = np.array([crop.box for crop in drawn(count, height, width)])
    for ours_one, theirs_one in zip(ours.T, theirs.T):
        spread = math.sqrt((ours_one.var() + theirs_one.var()) / count)
        assert abs(ours_one.mean() - theirs_one.mean()) < 4 * spread
        assert abs(ours_one.std() - theirs_one.std()) < 4 * spread


@pytest.mark.parametrize("height, width, expected", [(40, 1200, (573, 0, 626, 40)), (1200, 40, (0, 573, 40, 626))])
def test_a_panorama_falls_back_to_its_centre_as_torchvisions_does(height, width, expected):
    box = np.array(drawn(1, height, width, scale=(0.9, 1.0))[0].box) * [width, height, width, height]
    assert box.round().astype(int).tolist() == list(expected)


def test_one_pixel_can_be_cropped():
    crop = drawn(1, 1, 1)[0]
    assert crop.box == (0.0, 0.0, 1.0, 1.0)
    assert cut_image(np.full((1, 1, 3), 77, np.uint8), crop, size=8).unique().tolist() == [77]


@pytest.mark.parametrize("probability, low, high", [(0.5, 0.45, 0.55), (1.0, 1, 1), (0.0, 0, 0)])
def test_flips_occur_with_their_probability(probability, low, high):
    flips = [crop.flip for crop in drawn(2000, 50, 50, flip_probability=probability)]
    assert low <= np.mean(flips) <= high
