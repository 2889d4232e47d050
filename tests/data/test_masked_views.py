"""Views with label maps: cut alike, of the epoch's generation, replaced where there is one label only."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.geometry import Crop, cut_labels
from data.images import read_image
from data.label_maps import LabelMapError, label_map_path, read_label_map, write_label_map
from data.listing import find_images
from data.masked_views import BootstrappedViews, Generations, MaskedViews, MaskFolder
from data.photos import read_or_replace
from data.views import TwoViews, ViewSpec, collate
from utils.errors import DataError

SPEC = ViewSpec(size=16)


def equal(one, two):
    tensors = [key for key in one if key != "unreadable"]
    return one.keys() == two.keys() and all(
        torch.equal(torch.as_tensor(one[key]), torch.as_tensor(two[key])) for key in tensors
    )


def coordinates(folder, tmp_path, *, dtype=np.uint8, cells=12) -> MaskedViews:
    """Images of the folder with label maps of 12 x 12 cells, numbered row by row, of the images' own size."""
    images = find_images(folder)
    for index in range(len(images)):
        height, width = read_image(images.path(index)).shape[:2]
        rows, columns = np.arange(height) * cells // height, np.arange(width) * cells // width
        labels = (rows[:, None] * cells + columns).astype(dtype)
        write_label_map(label_map_path(tmp_path, "own", "train", images.name(index)), labels)
    return MaskedViews(images, spec=SPEC, mask_dir=tmp_path, mask_type="own", num_uniforms=5, seed=0)


def test_masks_are_cut_where_their_views_are(tmp_path):
    """Colours tell a pixel's column and row, labels too: after cropping, flipping and resizing they still agree."""
    rows, columns = np.indices((40, 48))
    (tmp_path / "train").mkdir()
    for number in range(8):
        pixels = np.stack([5 * columns, 6 * rows, 0 * rows], axis=2).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "train" / f"{number}.png")
        write_label_map(label_map_path(tmp_path, "own", "train", f"{number}.png"), rows * 48 + columns)
    images = find_images(tmp_path)
    dataset = MaskedViews(images, spec=SPEC, mask_dir=tmp_path, mask_type="own", num_uniforms=5, seed=0)
    flips = []
    for index in range(8):
        item = dataset[1, index]
        x, y = item["labels"] % 48, item["labels"] // 48
        # Bicubic resizing bends a ramp a little at a crop's border.
        assert (item["images"][:, 0] / 5 - x).abs().max() < 1.5
        assert (item["images"][:, 1] / 6 - y).abs().max() < 1.5
        flips += item["flips"].tolist()
    assert any(flips) and not all(flips)


def test_views_of_an_item_do_not_depend_on_whether_masks_are_cut(folder, tmp_path):
    masked, plain = coordinates(folder, tmp_path)[1, 3], TwoViews(find_images(folder), spec=SPEC, seed=0)[1, 3]
    assert equal({key: masked[key] for key in plain}, plain)


def test_regions_are_drawn_by_numbers_of_the_image_and_epoch_alone(folder, tmp_path):
    dataset = coordinates(folder, tmp_path)
    uniforms = dataset[1, 3]["uniforms"]
    assert uniforms.shape == (2, 2, 5) and uniforms.dtype == torch.float32
    assert ((uniforms >= 0) & (uniforms < 1)).all() and len(uniforms.unique()) == 20
    assert torch.equal(uniforms, dataset[1, 3]["uniforms"])
    assert not torch.equal(uniforms, dataset[2, 3]["uniforms"]) and not torch.equal(uniforms, dataset[1, 4]["uniforms"])


def test_a_replaced_image_brings_its_own_masks(folder, tmp_path):
    dataset = coordinates(folder, tmp_path)
    dataset.images.path(4).write_text("no picture")
    label_map_path(tmp_path, "own", "train", dataset.images.name(4)).unlink()
    item = dataset[0, 4]
    assert item["unreadable"][0][0] == dataset.images.name(4)
    index = read_or_replace(dataset.images, seed=0, epoch=0, index=4).index
    labels = read_label_map(label_map_path(tmp_path, "own", "train", dataset.images.name(index)))
    crop = Crop(tuple(item["boxes"][0].tolist()), bool(item["flips"][0]))
    assert torch.equal(item["labels"][0], cut_labels(labels, crop, size=16))


def test_masks_of_a_square_type_cover_images_of_any_shape(folder, tmp_path):
    images = find_images(folder)
    labels = np.arange(400).reshape(20, 20)
    write_label_map(label_map_path(tmp_path, "slic10_20", "train", images.name(1)), labels)
    options = {"spec": SPEC, "mask_dir": tmp_path, "num_uniforms": 5, "seed": 0}
    item = MaskedViews(images, mask_type="slic10_20", **options)[0, 1]
    assert item["labels"].dtype == torch.int32
    crop = Crop(tuple(item["boxes"][1].tolist()), bool(item["flips"][1]))
    assert torch.equal(item["labels"][1], cut_labels(labels, crop, size=16))


@pytest.mark.parametrize("defect", ["missing", "damaged", "of another size"])
def test_a_bad_mask_is_refused_by_its_name(folder, tmp_path, defect):
    dataset = coordinates(folder, tmp_path)
    path = label_map_path(tmp_path, "own", "train", dataset.images.name(2))
    if defect == "missing":
        path.unlink()
    elif defect == "damaged":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        write_label_map(path, np.zeros((7, 9), np.uint8))
    with pytest.raises(LabelMapError, match=re.escape(str(path))):
        dataset[0, 2]


def test_a_batch_counts_its_labels_and_mixes_their_types(folder, tmp_path):
    few, many = coordinates(folder, tmp_path)[0, 0], coordinates(folder, tmp_path, dtype=np.uint16, cells=20)[0, 1]
    assert (few["labels"].dtype, many["labels"].dtype) == (torch.uint8, torch.int32)
    batch = collate([few, many])
    assert batch["labels"].dtype == torch.int32 and batch["labels"].shape == (2, 2, 16, 16)
    assert batch["num_labels"] == int(max(few["labels"].max(), many["labels"].max())) + 1
    assert torch.equal(batch["labels"][0], few["labels"].int())


def bootstrapped(folder, tmp_path, **changes) -> BootstrappedViews:
    """Generations of three epochs: 12 x 12 cells by rows first, then 2 x 2, then 3 x 3."""
    first = coordinates(folder, tmp_path)
    for number, cells in ((1, 2), (2, 3)):
        write_generation(first, tmp_path / "run", number, cells)
    generations = Generations(MaskFolder(tmp_path, "own"), tmp_path / "run", every=3)
    options = {"spec": SPEC, "generations": generations, "num_uniforms": 5, "seed": 0, **changes}
    return BootstrappedViews(first.images, **options)


def write_generation(first: MaskedViews, mask_dir: Path, number: int, cells: int) -> None:
    for index in range(len(first.images)):
        height, width = read_image(first.images.path(index)).shape[:2]
        rows, columns = np.arange(height) * cells // height, np.arange(width) * cells // width
        path = label_map_path(mask_dir, f"gen_{number:04d}", "train", first.images.name(index))
        write_label_map(path, rows[:, None] * cells + columns)


def test_an_epoch_uses_the_masks_of_its_generation(folder, tmp_path):
    dataset = bootstrapped(folder, tmp_path)
    largest = [int(max(dataset[epoch, index]["labels"].max() for index in range(8))) for epoch in (0, 2, 3, 5, 6, 8)]
    assert largest[0] > 8 and largest[1] > 8
    assert largest[2:] == [3, 3, 8, 8]


def test_without_bootstrapping_the_first_masks_stay(folder, tmp_path):
    generations = Generations(MaskFolder(tmp_path, "own"), tmp_path / "run", every=None)
    dataset = bootstrapped(folder, tmp_path, generations=generations)
    assert dataset[6, 1]["labels"].max() > 8


def test_but_for_its_masks_an_item_is_that_of_fixed_masks(folder, tmp_path):
    item = bootstrapped(folder, tmp_path)[2, 3]
    assert not item.pop("replaced")
    assert equal(item, coordinates(folder, tmp_path)[2, 3])


def test_an_image_with_one_label_is_replaced_by_another_and_told_so(folder, tmp_path):
    dataset = bootstrapped(folder, tmp_path)
    lone = label_map_path(tmp_path / "run", "gen_0001", "train", dataset.images.name(2))
    write_label_map(lone, np.zeros_like(read_label_map(lone)))
    item = dataset[4, 2]
    assert item["replaced"] and item["unreadable"] == []
    assert item["labels"].max() > 0
    assert torch.equal(dataset[4, 2]["images"], item["images"])
    # Only the generation that has one label of it does without the image.
    assert not dataset[1, 2]["replaced"] and not dataset[6, 2]["replaced"]
    batch = collate([item, dataset[4, 1]])
    assert batch["replaced"].tolist() == [True, False]


def test_masks_of_one_label_alone_are_refused(folder, tmp_path):
    dataset = bootstrapped(folder, tmp_path)
    write_generation(dataset, tmp_path / "run", 1, 1)
    with pytest.raises(DataError, match=r"gen_0001: 50 label maps in a row have one label only.*min_clusters"):
        dataset[3, 0]


def test_scrambled_masks_have_their_images_labels_everywhere(folder, tmp_path):
    dataset, plain = bootstrapped(folder, tmp_path, scrambled=True), bootstrapped(folder, tmp_path)
    item = dataset[3, 1]
    assert set(item["labels"].unique().tolist()) == {0, 1, 2, 3}
    shares = torch.bincount(item["labels"].flatten().long()) / item["labels"].numel()
    assert (shares - 0.25).abs().max() < 0.1
    alike = [(labels[:, 1:] == labels[:, :-1]).float().mean() for labels in (item["labels"], plain[3, 1]["labels"])]
    assert alike[0] < 0.6 < alike[1]
    assert torch.equal(item["labels"], dataset[3, 1]["labels"])
    assert not torch.equal(item["labels"], dataset[4, 1]["labels"])
    other = plain[3, 1]
    del item["labels"], other["labels"]
    assert equal(item, other)


def test_a_map_that_a_run_made_and_lost_names_the_way_back(folder, tmp_path):
    dataset = bootstrapped(folder, tmp_path)
    label_map_path(tmp_path / "run", "gen_0002", "train", dataset.images.name(1)).unlink()
    with pytest.raises(LabelMapError, match=r"gen_0002.*resume the run from the checkpoint of the epoch that begins"):
        dataset[7, 1]


def test_a_first_map_that_is_missing_is_made_by_the_tool(folder, tmp_path):
    dataset = bootstrapped(folder, tmp_path)
    label_map_path(tmp_path, "own", "train", dataset.images.name(1)).unlink()
    with pytest.raises(LabelMapError, match="make_masks"):
        dataset[0, 1]
