import re
import zlib

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import zoom

from data.derived import lacking_files
from data.images import UnreadableImage
from data.label_maps import (
    LabelMapError,
    check_label_maps,
    dense_labels,
    enlarge,
    epoch_type,
    expected_shape,
    find_defect,
    generation_type,
    label_map_path,
    missing_label_maps,
    read_label_map,
    write_label_map,
)
from data.listing import find_images
from tests.models.published import load_reference
from utils.errors import DataError


def test_a_map_comes_back_with_dense_ids_in_their_order(tmp_path):
    write_label_map(tmp_path / "a.png", np.array([[7, 7, 300], [-2, 7, 99999]]))
    labels = read_label_map(tmp_path / "a.png")
    assert labels.tolist() == [[1, 1, 2], [0, 1, 3]] and labels.dtype == np.uint8
    assert Image.open(tmp_path / "a.png").mode == "L"


@pytest.mark.parametrize("count, dtype", [(256, np.uint8), (257, np.uint16), (65536, np.uint16)])
def test_the_number_of_labels_chooses_8_or_16_bits(tmp_path, count, dtype):
    labels = np.arange(65536).reshape(256, 256) % count
    write_label_map(tmp_path / "a.png", labels)
    back = read_label_map(tmp_path / "a.png")
    assert back.dtype == dtype and (back == labels).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
def test_small_ids_and_large_ones_are_renumbered_alike(dtype):
    labels = np.random.default_rng(0).choice([3, 4, 90, 127], (6, 7)).astype(dtype)
    expected = np.searchsorted([3, 4, 90, 127], labels)
    for ids in (labels, labels.astype(np.int64) * 1000, labels.astype(np.int64) - 100):
        dense, count = dense_labels(ids)
        assert (dense == expected).all() and count == 4 and dense.dtype == np.uint8


@pytest.mark.parametrize("count", [90, 900])
def test_a_map_has_no_row_filters_and_one_with_filters_is_read_alike(tmp_path, count):
    labels = np.kron(np.arange(count).reshape(-1, 30), np.ones((5, 5), int)).astype(
        np.uint8 if count < 256 else np.uint16
    )
    write_label_map(tmp_path / "ours.png", labels)
    Image.fromarray(labels).save(tmp_path / "pils.png")
    filters = {}
    for name in ("ours", "pils"):
        data = (tmp_path / f"{name}.png").read_bytes()
        assert (read_label_map(tmp_path / f"{name}.png") == labels).all()
        filters[name] = set(pixel_rows(data)[:: labels.nbytes // len(labels) + 1])
    assert filters["ours"] == {0} and filters["pils"] != {0}


def pixel_rows(data):
    """What the pixels of a PNG are stored as: each row begins with the number of its filter."""
    stored, at = b"", 8
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        stored += data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += length + 12
    return zlib.decompress(stored)


def test_too_many_labels_are_refused_and_leave_no_file(tmp_path):
    with pytest.raises(LabelMapError, match="65537 labels"):
        write_label_map(tmp_path / "a.png", np.arange(65537)[None])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [np.zeros((2, 2), np.float32), np.zeros((2, 2, 3), np.uint8)], ids=["float", "RGB"])
def test_what_is_no_label_map_is_not_written(tmp_path, wrong):
    with pytest.raises(LabelMapError, match="integers"):
        write_label_map(tmp_path / "a.png", wrong)


def test_a_damaged_map_is_named_with_the_remedy(tmp_path):
    path = tmp_path / "a.png"
    write_label_map(path, np.arange(10000).reshape(100, 100) % 97)
    data = path.read_bytes()
    for broken in (b"", b"text", data[: len(data) // 2], data[:-3], data[:60] + b"xxxx" + data[64:]):
        path.write_bytes(broken)
        with pytest.raises(LabelMapError, match=r"a\.png: no complete PNG; `python -m tools\.make_masks --repair`"):
            read_label_map(path)
    with pytest.raises(DataError, match="No such file"):
        read_label_map(tmp_path / "b.png")
    Image.new("RGB", (3, 3)).save(path)
    with pytest.raises(LabelMapError, match="3 channels"):
        read_label_map(path)


def test_the_map_of_a_generation_is_made_again_by_its_run(tmp_path, folder):
    path = label_map_path(tmp_path, generation_type(3), "train", "a.jpg")
    assert path.relative_to(tmp_path).as_posix() == "gen_0003/train/a.jpg.png"
    with pytest.raises(LabelMapError, match="a.jpg.png: .*delete the folder of its generation, and resume the run"):
        read_label_map(path)
    with pytest.raises(DataError, match="12 of 12 images have no label map there, such as .*; a CYBORGS run makes"):
        check_label_maps(tmp_path, generation_type(3), find_images(folder))


def test_the_map_of_an_epochs_regions_is_made_again_of_its_run(tmp_path, folder):
    with pytest.raises(
        LabelMapError, match="epoch_0003.*a.jpg.png: .*`python -m tools.region_maps RUN` makes it again"
    ):
        read_label_map(label_map_path(tmp_path, epoch_type(3), "train", "a.jpg"))
    with pytest.raises(DataError, match="make those of an R2O run with `python -m tools.region_maps RUN`"):
        check_label_maps(tmp_path, epoch_type(3), find_images(folder))


def test_a_map_lies_below_type_and_split_under_the_images_whole_name():
    path = label_map_path("masks", "slic100_224", "train", "n01/a.JPEG")
    assert path.as_posix() == "masks/slic100_224/train/n01/a.JPEG.png"


def test_missing_maps_are_found_by_name(folder):
    images = find_images(folder)
    maps = folder / "masks" / "fh" / "train"
    assert missing_label_maps(maps, images) == list(range(12))
    for index in (0, 5):
        write_label_map(label_map_path(folder / "masks", "fh", "train", images.name(index)), np.zeros((2, 2), int))
    assert missing_label_maps(maps, images) == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize(
    "mask_type, shape",
    [
        ("fh", (30, 40)),
        ("fh_s500_m224", (30, 40)),
        ("grid3x3", (30, 40)),
        ("slic100", (30, 40)),
        ("slic100_224", (224, 224)),
    ]
    + [("kmeans_7", (7, 7)), ("fh_opencv", (30, 40)), ("ground7", (30, 40))]
    + [("gen_0003", (30, 40)), ("gen_12345", (30, 40)), ("my_gen_0003", (3, 3)), ("epoch_0012", (30, 40))],
)
def test_a_number_at_the_end_of_the_types_name_is_the_maps_side(mask_type, shape):
    assert expected_shape(mask_type, (30, 40)) == expected_shape(mask_type, (30, 40, 3)) == shape


def test_a_sound_map_has_no_defect_and_others_say_theirs(folder, tmp_path):
    images = find_images(folder)
    image, path = images.path(0), tmp_path / "a.png"
    assert find_defect(path, "fh", image) == "missing"
    write_label_map(path, np.arange(40 * 48).reshape(40, 48) // 3)
    assert find_defect(path, "fh", image) is None
    assert find_defect(path, "x_40", image) == "48 x 40 pixels where 40 x 40 are needed"
    path.write_bytes(path.read_bytes()[:50])
    assert find_defect(path, "fh", image) == "no complete PNG"
    Image.fromarray(np.eye(40, 48, dtype=np.uint8) * 2).save(path)
    assert find_defect(path, "fh", image) == "its ids are not dense from 0"
    write_label_map(path, np.zeros((48, 40), int))
    assert find_defect(path, "fh", image) == "40 x 48 pixels where 48 x 40 are needed"
    Image.new("RGB", (48, 40)).save(path)
    assert find_defect(path, "fh", image) == "3 channels where a label map has one"


def test_a_map_of_the_upright_photo_is_sound(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (48, 40)).save(tmp_path / "a.jpg", exif=exif)
    write_label_map(tmp_path / "a.png", np.zeros((48, 40), int))
    assert find_defect(tmp_path / "a.png", "fh", tmp_path / "a.jpg") is None
    write_label_map(tmp_path / "a.png", np.zeros((40, 48), int))
    assert find_defect(tmp_path / "a.png", "fh", tmp_path / "a.jpg") is not None


def test_an_unreadable_image_has_no_defective_map(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"text")
    with pytest.raises(UnreadableImage):
        find_defect(tmp_path / "a.png", "fh", tmp_path / "a.jpg")


def write_maps(folder, images, indices):
    for index in indices:
        write_label_map(label_map_path(folder / "masks", "fh", "train", images.name(index)), np.zeros((40, 48), int))


def test_unreadable_images_lack_no_map(folder):
    images = find_images(folder)
    for index in (1, 5):
        images.path(index).write_bytes(b"text")
    write_maps(folder, images, range(3, 12, 2))
    assert list(lacking_files(folder / "masks" / "fh" / "train", images, suffix=".png")) == [0, 2, 4, 6, 8, 10]
    write_maps(folder, images, (0, 2, 4, 6, 8, 10))
    assert list(lacking_files(folder / "masks" / "fh" / "train", images, suffix=".png")) == []
    check_label_maps(folder / "masks", "fh", images)


@pytest.mark.parametrize("part", ["", "images", "images/train"])
def test_a_run_without_maps_is_told_the_command_that_makes_them(folder, part):
    images = find_images(folder / part)
    write_maps(folder, images, (0, 2))
    images.path(1).write_bytes(b"text")
    command = f"python -m tools.make_masks --dataset_dir {folder} --split train --output_dir {folder / 'masks'}"
    names = ", ".join(images.name(index) for index in (3, 4, 5))
    with pytest.raises(
        DataError, match=re.escape(f"10 of 12 images have no label map there, such as {names}; make them")
    ):
        check_label_maps(folder / "masks", "fh", images)
    with pytest.raises(DataError, match=re.escape(f"`{command} --mask_type slic100_224`")):
        check_label_maps(folder / "masks", "slic100_224", images)


def test_few_images_are_read_to_see_that_maps_are_missing(folder, monkeypatch):
    read = []
    monkeypatch.setattr("data.derived.read_image", read.append)
    with pytest.raises(DataError):
        check_label_maps(folder / "masks", "fh", find_images(folder))
    assert len(read) == 3


@pytest.mark.parametrize("case", range(3))
def test_maps_are_enlarged_as_cyborgs_enlarges_them(case):
    reference = load_reference("cyborgs_bootstrap.npz")
    expected = reference[f"zoom{case}_out"].numpy()
    assert (enlarge(reference[f"zoom{case}_in"].numpy(), expected.shape) == expected).all()


# In the last two, pixels lie exactly between two cells.
@pytest.mark.parametrize("shape, size", [((1, 4), (3, 9)), ((3, 1), (3, 1)), ((37, 12), (145, 23)), ((4, 2), (7, 4))])
def test_maps_are_enlarged_as_scipy_does(shape, size):
    labels = np.arange(shape[0] * shape[1]).reshape(shape)
    expected = zoom(labels, (size[0] / shape[0], size[1] / shape[1]), order=0, mode="nearest")
    assert (enlarge(labels, size) == expected).all()
