import numpy as np
import pytest
import torch
from PIL import Image

from data.geometry import WHOLE, Crop, cut_image
from data.images import read_image
from data.label_maps import LabelMapError, label_map_path, write_label_map
from data.listing import find_images
from data.photometric import Parameter
from data.photos import read_or_replace
from data.superpixels import slic_labels
from data.views import R2OViews, TwoViews, ViewSpec, collate
from utils.errors import DataError
from utils.seeding import derive_seed

SPEC = ViewSpec(size=16)


def online(folder, **changes):
    options = {"spec": SPEC, "spanning_size": 24, "superpixel_size": 20, "segments": 10, "mask_dir": None, "seed": 0}
    return R2OViews(find_images(folder), **{**options, **changes})


def equal(one, two):
    return one.keys() == two.keys() and all(
        torch.equal(one[key], two[key]) if isinstance(one[key], torch.Tensor) else one[key] == two[key] for key in one
    )


def test_an_item_has_the_parts_that_r2o_needs(folder):
    item = online(folder)[2, 5]
    tensors = {key: value for key, value in item.items() if isinstance(value, torch.Tensor)}
    assert {key: (tuple(value.shape), value.dtype) for key, value in tensors.items()} == {
        "images": ((2, 3, 16, 16), torch.uint8),
        "spanning": ((3, 24, 24), torch.uint8),
        "superpixels": ((20, 20), torch.uint8),
        "boxes": ((2, 4), torch.float32),
        "flips": ((2,), torch.bool),
        "photometric": ((2, len(Parameter)), torch.float32),
    }
    assert item["seed"] == derive_seed(0, 2, 5) and item["unreadable"] == []


def test_each_view_is_what_its_box_and_flip_say(folder):
    dataset = online(folder)
    for index in range(12):
        item, image = dataset[0, index], read_image(dataset.images.path(index))
        for view, box, flip in zip(item["images"], item["boxes"], item["flips"]):
            assert torch.equal(view, cut_image(image, Crop(tuple(box.tolist()), bool(flip)), size=16))
        assert torch.equal(item["spanning"], cut_image(image, WHOLE, size=24))
        assert item["superpixels"].tolist() == slic_labels(image, size=20, segments=10).tolist()


def test_a_draw_depends_on_seed_epoch_and_image_alone(folder):
    dataset = TwoViews(find_images(folder), spec=SPEC, seed=0)
    assert equal(dataset[1, 3], dataset[1, 3])
    first = dataset[1, 3]["boxes"]
    others = [dataset[2, 3], dataset[1, 4], TwoViews(find_images(folder), spec=SPEC, seed=1)[1, 3]]
    assert not any(torch.equal(first, other["boxes"]) for other in others)


def test_the_two_views_are_drawn_apart(folder):
    items = [TwoViews(find_images(folder), spec=SPEC, seed=0)[0, index] for index in range(12)]
    assert not any(torch.equal(*item["boxes"]) for item in items)
    sigmas = torch.stack([item["photometric"][:, Parameter.BLUR_SIGMA] for item in items])
    assert (sigmas[:, 0] > 0).all() and (sigmas[:, 1] == 0).any()


@pytest.mark.parametrize("probability, low, high", [(0.5, 0.4, 0.6), (1.0, 1, 1)])
def test_views_flip_apart_with_their_probability_and_always_in_the_release(folder, probability, low, high):
    spec = ViewSpec(size=4, flip_probability=probability)
    dataset = TwoViews(find_images(folder), spec=spec, seed=0)
    flips = torch.stack([dataset[epoch, index]["flips"] for epoch in range(25) for index in range(12)]).float()
    assert ((flips.mean(0) >= low) & (flips.mean(0) <= high)).all()
    assert probability == 1 or 0.4 < (flips[:, 0] == flips[:, 1]).float().mean() < 0.6


def test_a_shared_flip_mirrors_both_views_or_none_and_changes_no_box(folder):
    images = find_images(folder)
    shared, apart = (TwoViews(images, spec=ViewSpec(size=4, shared_flip=choice), seed=0) for choice in (True, False))
    keys = [(epoch, index) for epoch in range(5) for index in range(12)]
    flips = torch.stack([shared[key]["flips"] for key in keys])
    assert torch.equal(flips[:, 0], flips[:, 1]) and 0.3 < flips[:, 0].float().mean() < 0.7
    assert all(torch.equal(shared[key]["boxes"], apart[key]["boxes"]) for key in keys)


def test_cached_superpixels_are_the_files(folder, tmp_path):
    masks, images = tmp_path / "masks", find_images(folder)
    labels = np.arange(400).reshape(20, 20)
    write_label_map(label_map_path(masks, "slic10_20", "train", images.name(1)), labels)
    item = online(folder, mask_dir=masks)[0, 1]
    assert item["superpixels"].tolist() == labels.tolist() and item["superpixels"].dtype == torch.int32


def test_a_missing_map_is_computed(folder, tmp_path):
    cached, computed = online(folder, mask_dir=tmp_path), online(folder)
    assert torch.equal(cached[0, 0]["superpixels"], computed[0, 0]["superpixels"])


def test_a_damaged_or_wrong_map_stops_with_file_and_remedy(folder, tmp_path):
    dataset = online(folder, mask_dir=tmp_path)
    path = label_map_path(tmp_path, "slic10_20", "train", dataset.images.name(0))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no map")
    with pytest.raises(LabelMapError, match=f"{path.name}: .*make_masks"):
        dataset[0, 0]
    write_label_map(path, np.zeros((8, 8), int))
    with pytest.raises(LabelMapError, match="8 x 8 pixels where .* needs 20 x 20"):
        dataset[0, 0]


def test_an_unreadable_image_is_replaced_by_the_same_other_one_and_named(folder):
    images = find_images(folder)
    images.path(4).write_bytes(b"no photo")
    photo = read_or_replace(images, seed=0, epoch=3, index=4)
    assert photo.unreadable == [(images.name(4), "no known image format")]
    assert np.array_equal(photo.image, read_image(images.path(photo.index)))
    assert read_or_replace(images, seed=0, epoch=3, index=4).index == photo.index
    assert len({read_or_replace(images, seed=0, epoch=epoch, index=4).index for epoch in range(20)}) > 3


def test_a_replaced_image_brings_its_own_superpixels(folder, tmp_path):
    images = find_images(folder)
    for index in range(12):
        labels = np.arange(400).reshape(20, 20) % (index + 2)
        write_label_map(label_map_path(tmp_path, "slic10_20", "train", images.name(index)), labels)
    images.path(4).write_bytes(b"no photo")
    used = read_or_replace(images, seed=0, epoch=0, index=4).index
    item = online(folder, mask_dir=tmp_path)[0, 4]
    assert item["superpixels"].max() == used + 1 and len(item["unreadable"]) == 1


def test_a_folder_of_unreadable_images_stops(folder):
    images = find_images(folder)
    for index in range(12):
        images.path(index).write_bytes(b"no photo")
    with pytest.raises(DataError, match="in a row cannot be read.*no known image format"):
        read_or_replace(images, seed=0, epoch=0, index=0)


def test_awkward_images_give_whole_items(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (30, 40, 4)).astype(np.uint8)
    Image.fromarray(noise[..., 0]).save(tmp_path / "grey.jpg")
    Image.fromarray(noise).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(tmp_path / "16bit.png")
    Image.fromarray(noise[..., :3]).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(noise[:1, :1, :3]).save(tmp_path / "pixel.png")
    Image.fromarray(noise).save(tmp_path / "alpha.png")
    Image.fromarray(np.tile(noise[:10, :30, :3], (1, 10, 1))).save(tmp_path / "panorama.jpg")
    dataset = online(tmp_path)
    batch = collate([dataset[epoch, index] for epoch in range(3) for index in range(len(dataset))])
    assert len(dataset) == 7 and batch["images"].shape == (21, 2, 3, 16, 16) and batch["unreadable"] == []
    assert ((batch["boxes"] >= 0) & (batch["boxes"] <= 1)).all()
    assert (batch["boxes"][..., 2:] > batch["boxes"][..., :2]).all()


def test_a_batch_stacks_items_and_counts_superpixels(folder):
    dataset = online(folder)
    items = [dataset[0, index] for index in range(3)]
    items[1]["unreadable"] = [("a.jpg", "empty")]
    items[2]["superpixels"] = items[2]["superpixels"].int() + 300
    largest = int(items[2]["superpixels"].max())
    batch = collate(items)
    assert batch["superpixels"].dtype == torch.int32 and batch["num_superpixels"] == largest + 1
    assert type(batch["num_superpixels"]) is int
    assert batch["seed"].tolist() == [derive_seed(0, 0, index) for index in range(3)]
    assert batch["unreadable"] == [("a.jpg", "empty")]
    assert "num_superpixels" not in collate([TwoViews(dataset.images, spec=SPEC, seed=0)[0, 0]])
