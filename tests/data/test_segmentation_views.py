import numpy as np
import pytest
import torch
from PIL import Image

from data.segmentation_views import (
    SegmentationSpec,
    SegmentationViews,
    WholeSegmentations,
    distort,
    draw_window,
    fitted_size,
    prepare_views,
    resize_labels,
)
from data.segmented_images import SegmentedImages, voc_examples
from data.views import collate
from data.voc import VocFolder
from utils.errors import DataError

HEIGHT, WIDTH = 60, 80


def write_voc(root, pictures, *, labels_folder="SegmentationClass", split="train"):
    """A folder in VOC's layout of (image, labels) pairs, lossless though named .jpg."""
    for folder in ("JPEGImages", labels_folder, "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    names = [f"{split}_{place}" for place in range(len(pictures))]
    (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
    for name, (image, labels) in zip(names, pictures):
        Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg", format="PNG")
        Image.fromarray(labels).save(root / labels_folder / f"{name}.png")
    return root


def coordinates():
    """An image whose red is a pixel's column and green its row, and labels that say in which quarter it lies."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([3 * columns, 4 * rows, np.full_like(rows, 50)], axis=-1).astype(np.uint8)
    labels = (2 * (rows >= HEIGHT // 2) + (columns >= WIDTH // 2)).astype(np.uint8)
    return image, labels


def segmented(root):
    return SegmentedImages(root, voc_examples(VocFolder(root), "train"))


@pytest.fixture
def images(tmp_path):
    return segmented(write_voc(tmp_path, [coordinates()]))


def views(images, **spec):
    spec = {"crop": (40, 50), "flip_probability": 0.5, **spec}
    return SegmentationViews(images, spec=SegmentationSpec(**spec), seed=0)


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.4, 2.0)])
def test_image_and_labels_are_cut_alike(images, scale):
    dataset = views(images, scale=scale)
    for epoch in range(20):
        item = dataset[epoch, 0]
        height, width = item["extent"].tolist()
        red, green, _ = item["images"][:, :height, :width].float()
        labels = item["segmentation"][:height, :width]
        expected = 2 * (green / 4 >= HEIGHT // 2 - 0.5) + (red / 3 >= WIDTH // 2 - 0.5)
        # A pixel beside a border may be enlarged from both of its sides.
        near = ((green / 4 - HEIGHT // 2 + 0.5).abs() <= 1.3) | ((red / 3 - WIDTH // 2 + 0.5).abs() <= 1.3)
        assert torch.equal(expected.int()[~near], labels.int()[~near])
        assert (~near).sum() > 0.7 * near.numel()


def test_without_scaling_pixels_keep_their_values_and_their_neighbours(images):
    seen = set()
    for epoch in range(30):
        red, green, _ = views(images, scale=(1.0, 1.0))[epoch, 0]["images"].int()
        across, down = red.diff(dim=1), green.diff(dim=0)
        assert (down == 4).all() and (across.abs() == 3).all()
        assert len(across.unique()) == 1
        seen.add((int(across[0, 0]), int(red.min()), int(green.min())))
    assert {across for across, *_ in seen} == {3, -3}
    assert len(seen) > 20


def test_scales_reach_over_the_whole_range_and_nothing_beyond(images):
    dataset = views(images, scale=(0.5, 2.0), flip_probability=0, crop=(500, 500))
    sizes = [dataset[epoch, 0]["extent"].tolist() for epoch in range(200)]
    factors = np.array([height / HEIGHT for height, _ in sizes])
    assert 0.49 <= factors.min() < 0.6 and 1.9 < factors.max() <= 2.01
    assert all(abs(width / WIDTH - height / HEIGHT) < 0.02 for height, width in sizes)


def test_a_small_image_is_filled_up_at_the_right_and_below_with_void_and_the_mean(images):
    item = views(images, scale=(0.5, 0.5), crop=(40, 50))[0, 0]
    assert item["extent"].tolist() == [30, 40]
    assert (item["segmentation"][30:] == 255).all() and (item["segmentation"][:, 40:] == 255).all()
    assert (item["segmentation"][:30, :40] < 4).all()
    prepared = prepare_views(collate([item, item]))["images"]
    assert prepared.shape == (2, 3, 40, 50)
    assert (prepared[:, :, 30:] == 0).all() and (prepared[:, :, :, 40:] == 0).all()
    blue = (50 / 255 - 0.406) / 0.225
    assert prepared[1, 2, :30, :40].allclose(torch.tensor(blue))


def test_a_view_depends_on_seed_epoch_and_index_alone(tmp_path):
    dataset = views(segmented(write_voc(tmp_path, [coordinates()] * 2)), distortion=True)
    first = dataset[3, 1]
    dataset[5, 0]
    again = dataset[3, 1]
    assert all(torch.equal(first[key], again[key]) for key in ("images", "segmentation", "extent"))
    assert not torch.equal(first["images"], dataset[4, 1]["images"])
    assert not torch.equal(first["images"], dataset[3, 0]["images"])


def test_a_crop_is_drawn_again_where_one_class_fills_it():
    labels = np.zeros((100, 100), dtype=np.uint8)
    labels[:, 90:], labels[:, :5] = 1, 255
    shares = {}
    for limit in (1.0, 0.9):
        rng = np.random.default_rng(0)
        windows = [draw_window(rng, labels, (20, 20), max_class_share=limit) for _ in range(200)]
        shares[limit] = np.mean([(labels[window] == 1).mean() > 0.1 for window in windows])
    assert shares[1.0] < 0.25 and shares[0.9] > 0.5


def test_a_map_of_void_alone_or_of_one_class_ends_the_search():
    for value in (255, 3):
        labels = np.full((30, 30), value, dtype=np.uint8)
        rows, columns = draw_window(np.random.default_rng(0), labels, (20, 10), max_class_share=0.75)
        assert labels[rows, columns].shape == (20, 10)


def test_labels_of_another_size_are_refused_by_both_names(tmp_path):
    image, labels = coordinates()
    images = segmented(write_voc(tmp_path, [(image, labels[:-1])]))
    for dataset, key in ((views(images), (0, 0)), (WholeSegmentations(images, size=None), 0)):
        with pytest.raises(
            DataError, match=r"SegmentationClass/train_0.png: 80 x 59 pixels, .*train_0.jpg has 80 x 60"
        ):
            dataset[key]


def test_a_class_out_of_range_is_refused_by_the_files_name(tmp_path):
    image, labels = coordinates()
    images = segmented(write_voc(tmp_path, [(image, labels + 18)]))
    with pytest.raises(DataError, match="SegmentationClass/train_0.png: a pixel of class 21"):
        views(images)[0, 0]


def test_missing_files_are_counted_before_anything_is_read(tmp_path):
    write_voc(tmp_path, [coordinates()] * 3)
    (tmp_path / "SegmentationClass" / "train_1.png").unlink()
    (tmp_path / "JPEGImages" / "train_2.jpg").unlink()
    with pytest.raises(DataError, match="2 files are missing there, such as .*train_1.png"):
        segmented(tmp_path)


def test_labels_are_read_from_the_folder_that_a_part_names(tmp_path):
    write_voc(tmp_path, [coordinates()], labels_folder="SegmentationClassAug")
    images = SegmentedImages(tmp_path, voc_examples(VocFolder(tmp_path), "train", labels="SegmentationClassAug"))
    assert WholeSegmentations(images, size=None)[0]["segmentation"].unique().tolist() == [0, 1, 2, 3]


def test_an_unreadable_training_image_is_replaced_and_reported(tmp_path):
    images = segmented(write_voc(tmp_path, [coordinates()] * 2))
    (tmp_path / "JPEGImages" / "train_0.jpg").write_bytes(b"")
    item = views(images, scale=(1.0, 1.0))[0, 0]
    assert {name for name, _ in item["unreadable"]} == {"JPEGImages/train_0.jpg"}
    assert item["segmentation"].unique().tolist() == [0, 1, 2, 3]


def test_test_images_are_made_to_fit_and_their_labels_are_not(images):
    item = WholeSegmentations(images, size=(200, 120))[0]
    assert item["images"].shape == (3, 120, 160) and item["segmentation"].shape == (HEIGHT, WIDTH)


def test_sizes_are_those_of_the_published_resizing():
    assert fitted_size((1024, 2048), (2049, 1025)) == (1025, 2049)
    assert fitted_size((375, 500), (2048, 512)) == (512, 683)
    assert fitted_size((500, 375), (2048, 512), factor=0.5) == (341, 256)
    assert fitted_size((375, 500), None) == (375, 500)
    assert fitted_size((3, 4), None, factor=0.1) == (1, 1)


def test_labels_are_taken_at_the_pixels_centres_so_that_mirroring_changes_nothing():
    labels = np.random.default_rng(0).integers(0, 9, (21, 17)).astype(np.uint8)
    for size in ((13, 12), (31, 40)):
        assert np.array_equal(resize_labels(labels[::-1, ::-1], size), resize_labels(labels, size)[::-1, ::-1])


def test_distortion_changes_colours_within_its_bounds():
    image = np.full((8, 8, 3), (100, 140, 120), dtype=np.uint8)
    values = [distort(image, np.random.default_rng(seed)).astype(int) for seed in range(300)]
    assert all(value.std(axis=(0, 1)).max() == 0 for value in values)
    colours = np.stack([value[0, 0] for value in values])
    # Brightness alone moves all channels alike, by at most 32; with contrast at most (100 + 32) * 1.5.
    assert (colours == image[0, 0]).all(axis=1).mean() == pytest.approx(1 / 16, abs=0.05)
    assert colours.max() <= (140 + 32) * 1.5 + 1 and colours.min() >= (100 - 32) * 0.5 - 30
    assert len({tuple(colour) for colour in colours}) > 200
