from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from data.box_views import BoxViews
from data.boxes import Jitter
from data.geometry import WHOLE, Crop, cut_image, cut_labels, draw_crop, largest_reduction
from data.images import UnreadableImage, read_image
from data.label_maps import label_map_path, read_label_map, write_label_map
from data.listing import find_images
from data.masked_views import BootstrappedViews, Generations, MaskedViews, MaskFolder
from data.photos import read_or_replace
from data.reduced import read_reduced
from data.superpixels import slic_labels
from data.views import R2OViews, TwoViews, ViewSpec
from orl_config import ORLConfig
from tests.data.test_box_views import found
from utils.sections import Data
from wiring import view_spec

SPEC = ViewSpec(size=24)
SCALED = replace(SPEC, dct_scaling=True)


def gradient(height, width):
    """Red grows from 0 to 255 across, green down: a pixel's colour is its centre's place."""
    across = (np.arange(width) + 0.5) / width * 255
    down = (np.arange(height) + 0.5) / height * 255
    image = np.empty((height, width, 3))
    image[..., 0], image[..., 1], image[..., 2] = across, down[:, None], 90
    return image.round().astype(np.uint8)


def saved(path, image, *, orientation=1, **options):
    exif = Image.Exif()
    if orientation > 1:
        exif[0x112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, exif=exif, **options)
    return path


@pytest.fixture
def photos(tmp_path):
    """Six large JPEGs of smooth colours, one a PNG, sides odd."""
    rng = np.random.default_rng(0)
    for number in range(6):
        coarse = Image.fromarray(rng.integers(30, 220, (6, 8, 3)).astype(np.uint8))
        image = np.asarray(coarse.resize((301 + number, 235), Image.Resampling.BICUBIC))
        name = f"{number}.png" if number == 5 else f"{number}.jpg"
        saved(tmp_path / "images" / "train" / name, image, **({} if number == 5 else {"quality": 95}))
    return find_images(tmp_path)


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("size", [(160, 240), (157, 243), (153, 241)])
def test_an_image_of_coordinates_comes_out_where_the_crop_says(tmp_path, factor, size):
    height, width = size
    path = saved(tmp_path / "a.jpg", gradient(height, width), quality=98)
    image, shape, reached = read_reduced(path, lambda height, width: factor)
    assert shape == size and reached == factor and image.shape[:2] == (-(-height // factor), -(-width // factor))
    side = 16
    for box, flip in (((0.0, 0.0, 1.0, 1.0), False), ((0.25, 0.1, 1.0, 0.95), True), ((0.0, 0.05, 0.9, 1.0), False)):
        steps = (np.arange(side) + 0.5) / side
        view = cut_image(image, Crop(box, flip), size=side, whole=(height / factor, width / factor)).numpy() / 255
        x = box[0] + (steps[::-1] if flip else steps) * (box[2] - box[0])
        y = box[1] + steps * (box[3] - box[1])
        # Half a pixel of the smaller image at each end, and what 8 bits and JPEG leave open.
        inner = slice(1, -1)
        assert np.abs(view[0] - x)[:, inner].max() < 0.5 * factor / width + 0.012
        assert np.abs(view[1].T - y)[:, inner].max() < 0.5 * factor / height + 0.012


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_upright_and_its_factor_divides_its_sides(tmp_path, orientation):
    whole = saved(tmp_path / "a.jpg", gradient(160, 240), orientation=orientation, quality=95)
    image, shape, factor = read_reduced(whole, lambda height, width: 4)
    expected = read_image(whole)
    assert shape == expected.shape[:2] and factor == 4
    blocks = expected.reshape(shape[0] // 4, 4, shape[1] // 4, 4, 3).mean((1, 3))
    assert np.abs(image - blocks).max() < 4
    odd = saved(tmp_path / "b.jpg", gradient(162, 242), orientation=orientation, quality=95)
    assert read_reduced(odd, lambda height, width: 8).factor == (8 if orientation == 1 else 2)


def test_the_choice_sees_the_upright_shape(tmp_path):
    seen = []
    for orientation in (1, 6):
        path = saved(tmp_path / "a.jpg", gradient(160, 240), orientation=orientation)
        read_reduced(path, lambda *shape: seen.append(shape) or 1)
    assert seen == [(160, 240), (240, 160)]


class Held:
    """A file that is no path, as one in a shard."""

    def __init__(self, path):
        self._path, self.reads = path, 0

    def read_bytes(self):
        self.reads += 1
        return self._path.read_bytes()

    def open(self, mode):
        self.reads += 1
        return self._path.open(mode)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_photo_in_a_shard_shrinks_as_one_in_a_folder(tmp_path, orientation):
    path = saved(tmp_path / "a.jpg", gradient(160, 240), orientation=orientation)
    file = Held(path)
    own, held = (read_reduced(one, lambda height, width: 4) for one in (path, file))
    assert np.array_equal(own.image, held.image) and own[1:] == held[1:] and file.reads == 1


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp"])
def test_what_is_no_jpeg_is_read_whole(tmp_path, name):
    path = saved(tmp_path / name, gradient(96, 120))
    image, shape, factor = read_reduced(path, lambda height, width: 8)
    assert factor == 1 and shape == (96, 120) and np.array_equal(image, read_image(path))


def test_a_truncated_or_missing_file_is_refused(tmp_path):
    path = saved(tmp_path / "a.jpg", gradient(160, 240))
    for data in (path.read_bytes()[:-60], path.read_bytes()[:700], b"\xff\xd8\xff\xe0", b""):
        path.write_bytes(data)
        with pytest.raises(UnreadableImage, match="a.jpg"):
            read_reduced(path, lambda height, width: 2)
    with pytest.raises(UnreadableImage, match="absent.jpg"):
        read_reduced(tmp_path / "absent.jpg", lambda height, width: 2)


def test_an_image_shrinks_as_long_as_each_crop_holds_its_view():
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(300):
        height, width = rng.integers(20, 2000, 2).tolist()
        crops = [
            draw_crop(rng, height, width, scale=(0.08, 1), ratio=(0.75, 1.33), flip_probability=0.5) for _ in range(2)
        ]
        factor = largest_reduction([*((crop, 64) for crop in crops), (WHOLE, 48)], (height, width))
        sides = [(x1 - x0) * width / 64 for (x0, _, x1, _), _ in crops] + [
            (y1 - y0) * height / 64 for (_, y0, _, y1), _ in crops
        ]
        room = min(*sides, height / 48, width / 48) + 1e-9
        assert factor <= max(room, 1) and (factor == 8 or 2 * factor > room)
        found.add(factor)
    assert found == {1, 2, 4, 8}


def test_scaled_views_are_what_their_boxes_cut_out_of_the_whole_image_but_for_a_little(photos):
    whole, scaled = (TwoViews(photos, spec=spec, seed=0) for spec in (SPEC, SCALED))
    factors = set()
    for epoch in range(4):
        for index in range(len(photos)):
            one, two = whole[epoch, index], scaled[epoch, index]
            photo, image = scaled._read((epoch, index)), read_image(photos.path(index))
            factors.add(photo.factor)
            assert all(torch.equal(one[key], two[key]) for key in ("flips", "photometric"))
            pixels = torch.tensor([image.shape[1], image.shape[0]] * 2)
            limit = 0.01 + photo.factor / 2 if photo.factor > 1 else 0
            assert ((one["boxes"] - two["boxes"]) * pixels).abs().max() <= limit
            for view, box, flip in zip(two["images"], two["boxes"].tolist(), two["flips"].tolist()):
                expected = cut_image(image, Crop(tuple(box), flip), size=24)
                assert (view.float() - expected.float()).abs().mean() < 1.5
    assert factors >= {1, 2, 4} and scaled._read((0, 5)).factor == 1


def test_an_items_factor_depends_on_the_image_and_its_crops_alone(photos):
    scaled, again = (TwoViews(photos, spec=SCALED, seed=0) for _ in range(2))
    for index in reversed(range(len(photos))):
        assert torch.equal(scaled[1, index]["images"], again[1, index]["images"])
    # A replacement has the crops, drawn for its own size, of the image that it replaces.
    photos.path(3).write_bytes(b"no photo")
    used = read_or_replace(photos, seed=0, epoch=1, index=3).index
    crops = [Crop(tuple(box), False) for box in scaled[1, 3]["boxes"].tolist()]
    photo = scaled._read((1, 3))
    assert photo.index == used and photo.factor in (1, largest_reduction([(one, 24) for one in crops], photo.shape))


@pytest.mark.parametrize("index", [0, 4])
def test_superpixels_that_lack_are_those_of_the_whole_image(photos, tmp_path, index):
    dataset = R2OViews(photos, spec=SCALED, superpixel_size=20, segments=10, mask_dir=tmp_path / "none", seed=0)
    item, image = dataset[0, index], read_image(photos.path(index))
    assert dataset._read((0, index)).factor > 1
    assert item["superpixels"].tolist() == slic_labels(image, size=20, segments=10).tolist()
    assert (item["spanning"].float() - cut_image(image, WHOLE, size=24).float()).abs().mean() < 3


def test_images_whose_superpixels_are_made_each_time_are_decoded_once(photos):
    options = {"superpixel_size": 20, "segments": 10, "mask_dir": None, "seed": 0}
    whole, scaled = (R2OViews(photos, spec=spec, **options) for spec in (SPEC, SCALED))
    for index in range(len(photos)):
        assert scaled._read((0, index)).factor == 1
        assert all(torch.equal(whole[0, index][key], scaled[0, index][key]) for key in ("images", "superpixels"))


@pytest.fixture
def masks(photos, tmp_path):
    """Seven bands an image, but one label in every other."""
    for index in range(len(photos)):
        height, width, _ = read_image(photos.path(index)).shape
        bands = np.repeat(np.arange(height) * 7 // height, width).reshape(height, width)
        write_label_map(label_map_path(tmp_path, "fh", "train", photos.name(index)), bands * (index % 2))
    return MaskFolder(tmp_path, "fh")


def crops_of(item):
    return [Crop(tuple(box), flip) for box, flip in zip(item["boxes"].tolist(), item["flips"].tolist())]


@pytest.mark.parametrize("key", [(0, 1), (1, 3), (2, 1)])
def test_label_maps_of_the_whole_image_are_cut_as_the_views_are(photos, masks, key):
    dataset = MaskedViews(photos, spec=SCALED, **masks._asdict(), num_uniforms=3, seed=0)
    item, labels = dataset[key], read_label_map(label_map_path(*masks, "train", photos.name(key[1])))
    assert dataset._read(key).factor > 1
    for view, crop in zip(item["labels"], crops_of(item)):
        # Boxes are rounded to float32: a row of the view may fall on the other side of a border.
        assert (view != cut_labels(labels, crop, size=24)).float().mean() < 0.06


def test_an_image_that_takes_anothers_place_shrinks_by_the_crops_that_are_cut(photos, masks):
    generations = Generations(masks, masks.mask_dir, None)
    dataset = BootstrappedViews(photos, spec=SCALED, generations=generations, num_uniforms=3, seed=0)
    factors = set()
    for epoch in range(8):
        item, (photo, _, replaced) = dataset[epoch, 0], dataset._find((epoch, 0))
        assert replaced and item["replaced"]
        room = largest_reduction([(crop, 23) for crop in crops_of(item)], photo.shape)
        assert photo.factor <= room
        factors.add(photo.factor)
    assert len(factors) > 1


def test_a_spanning_view_larger_than_the_crops_bounds_the_factor(photos, tmp_path):
    options = {"superpixel_size": 20, "segments": 10, "mask_dir": tmp_path, "seed": 0}
    small, large = (R2OViews(photos, spec=SCALED, spanning_size=size, **options) for size in (20, 200))
    assert {large._read((epoch, 0)).factor for epoch in range(6)} == {1}
    assert max(small._read((epoch, 0)).factor for epoch in range(6)) > 1


def test_images_that_boxes_are_cut_from_keep_their_pixels(folder):
    images = find_images(folder)
    items = []
    for spec in (SPEC, SCALED):
        spec = replace(spec, size=4)
        items.append(BoxViews(images, found(images), spec=spec, patch_size=12, jitter=Jitter(), seed=0)[0, 0])
    assert all(torch.equal(items[0][key], items[1][key]) for key in ("images", "patches"))


def test_the_key_reaches_the_views_and_orls_boxes_refuse_it():
    assert (
        view_spec(Data(image_dir="x", dct_scaling=True)).dct_scaling and not view_spec(Data(image_dir="x")).dct_scaling
    )
    settings = {"data": {"image_dir": "x", "dct_scaling": True}}
    with pytest.raises(ValueError, match="data.dct_scaling.*leave it false, or set model.variant: byol"):
        ORLConfig(**settings)
    assert ORLConfig(**settings, model={"variant": "byol"}).data.dct_scaling
