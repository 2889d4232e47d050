import numpy as np
import pytest
from PIL import Image

from data.label_maps import (
    LabelMapError,
    is_complete,
    label_map_path,
    missing_label_maps,
    read_label_map,
    read_meta,
    write_label_map,
    write_meta,
)
from data.listing import find_images
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
        with pytest.raises(LabelMapError, match=r"a\.png: no complete PNG; make it again.*make_superpixels --verify"):
            read_label_map(path)
    with pytest.raises(DataError, match="No such file"):
        read_label_map(tmp_path / "b.png")
    Image.new("RGB", (3, 3)).save(path)
    with pytest.raises(LabelMapError, match="3 channels"):
        read_label_map(path)


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


def test_the_note_tells_the_listing_it_is_complete_for(folder, tmp_path):
    (tmp_path / "subset.txt").write_text("class0\n")
    images, subset = find_images(folder), find_images(folder, subset=str(tmp_path / "subset.txt"))
    note = {"tool": "test", "parameters": {"k": 1}, "versions": {}}
    assert not is_complete(tmp_path, subset)
    write_meta(tmp_path, subset, **note)
    assert is_complete(tmp_path, subset) and not is_complete(tmp_path, images)
    write_meta(tmp_path, images, **note)
    assert is_complete(tmp_path, subset) and is_complete(tmp_path, images)
    assert read_meta(tmp_path)["parameters"] == {"k": 1}


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff"])
def test_a_damaged_note_counts_as_none(tmp_path, text):
    (tmp_path / "meta.json").write_text(text, encoding="latin-1")
    assert read_meta(tmp_path) == {}
