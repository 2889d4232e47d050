"""Files made to do harm: each is refused with a message, and does nothing."""

import json
import os
import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.coco_objects import read_coco
from data.images import UnreadableImage, read_image
from data.inside import check_name, jpeg_size
from data.label_maps import LabelMapError, read_label_map
from data.ragged import Ragged
from data.shard_index import ShardIndex, find_index, write_index
from data.voc import VocFolder
from engine.checkpoint import load_checkpoint
from utils.config import Section, load_config
from utils.errors import DataError, UserError


class Harm:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self._path = path

    def __reduce__(self):
        return os.system, (f"touch {self._path}",)


@pytest.fixture
def harm(tmp_path):
    path = tmp_path / "harm"
    yield Harm(path)
    assert not path.exists()


def test_a_checkpoint_that_runs_code_is_refused(tmp_path, harm):
    torch.save({"method": harm}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="could run code"):
        load_checkpoint(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(harm, protocol=2))
    with pytest.raises(UserError, match="b.pth"):
        load_checkpoint(tmp_path / "b.pth")


def test_a_config_that_makes_objects_is_refused(tmp_path, harm):
    path = tmp_path / "a.yaml"
    path.write_text(f"seed: !!python/object/apply:os.system ['touch {tmp_path / 'harm'}']\n")
    with pytest.raises(UserError, match="a.yaml"):
        load_config(path, Section)


def test_an_array_that_runs_code_is_refused(tmp_path, harm):
    boxes = Ragged.from_rows([[[0, 0, 1, 1]]], width=4, dtype=np.float32)
    boxes.save(tmp_path / "boxes")
    for path in tmp_path.glob("*.npy"):
        np.save(path, np.array([harm], dtype=object), allow_pickle=True)
    with pytest.raises(UserError):
        Ragged.load(tmp_path / "boxes")


def claiming(picture: bytes, at: int, size: bytes) -> bytes:
    return picture[:at] + size + picture[at + len(size) :]


def test_a_jpeg_of_absurd_size_is_refused_before_it_is_decoded(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    assert jpeg_size(data) == (32, 32)
    frame = data.index(b"\xff\xc0")
    (tmp_path / "a.jpg").write_bytes(claiming(data, frame + 5, b"\xff\x00\xff\x00"))
    with pytest.raises(UnreadableImage, match="65280 x 65280 pixels.*bomb"):
        read_image(tmp_path / "a.jpg")


def test_a_png_of_absurd_size_is_refused_before_it_is_decoded(tmp_path):
    Image.new("L", (32, 32)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    header = claiming(data, 16, (60000).to_bytes(4, "big") * 2)
    (tmp_path / "a.png").write_bytes(claiming(header, 29, zlib.crc32(header[12:29]).to_bytes(4, "big")))
    with pytest.raises(UnreadableImage, match="bomb"):
        read_image(tmp_path / "a.png")
    with pytest.raises(LabelMapError, match="60000 x 60000 pixels.*bomb"):
        read_label_map(tmp_path / "a.png")


@pytest.mark.parametrize(
    "name", ["../a.jpg", "/etc/passwd", "a/../../b", "..", "", "C:\\a.jpg", "\\\\host\\a", "a\0b", 3]
)
def test_a_name_that_leaves_the_folder_is_refused(name):
    with pytest.raises(DataError, match="list.json"):
        check_name(name, "list.json")


@pytest.mark.parametrize("name", ["a.jpg", "b/c d.png", "ü..jpg", "..a.jpg"])
def test_a_name_that_stays_is_taken(name):
    assert check_name(name, "list.json") == name


def written(folder, **changes):
    """An index of shards, two images and one type of maps in a tar of a thousand bytes."""
    folder.mkdir()
    (folder / "a.tar").write_bytes(bytes(1000))
    sound = ShardIndex(
        shards=np.array([b"a.tar"]),
        shard_bytes=np.array([1000]),
        paths=np.array([b"a/\xc3\xbc..jpg", b"b.jpg"]),
        shard_of=np.array([0, 0], np.int32),
        images=np.array([[0, 1000], [512, 10]]),
        types=np.array([b"fh"]),
        maps=np.array([[[0, -1], [990, 10]]]),
    )
    write_index(folder, sound._replace(**{name: np.array(value) for name, value in changes.items()}))
    return folder


def test_a_sound_index_of_shards_is_taken(tmp_path):
    assert find_index(written(tmp_path / "S")).paths.tolist() == [b"a/\xc3\xbc..jpg", b"b.jpg"]


@pytest.mark.parametrize(
    "name",
    [b"../../b.jpg", b"/b.jpg", b"b/../../c.jpg", b"C:\\b.jpg", b"C:b.jpg", b"\\\\host\\b", b"b\0c.jpg", b"a/.."],
)
def test_an_index_of_shards_whose_names_leave_the_folder_is_refused(tmp_path, name):
    paths = sorted([b"a", name])
    with pytest.raises(DataError, match="index.npz: damaged .*leaves the dataset's folder.*; delete it"):
        find_index(written(tmp_path / "S", paths=paths))


@pytest.mark.parametrize(
    "changes",
    [
        {"shard_of": [0, 1]},
        {"shard_of": [-1, 0]},
        {"shard_of": [0.0, 0.0]},
        {"shard_of": [0]},
        {"images": [[0, 1000], [512, 489]]},
        {"images": [[0, 1000], [-1, 10]]},
        {"images": [[0, 1000], [0, -1]]},
        {"images": [[0, 1000], [2**63 - 1, 2**63 - 1]]},
        {"images": [[0, 1000]]},
        {"maps": [[[0, -1], [991, 10]]]},
        {"maps": [[[0, -1]]]},
        {"maps": np.zeros((0, 2, 2), int)},
        {"paths": [b"b.jpg", b"a.jpg"]},
        {"paths": [b"a.jpg", b"a.jpg"]},
        {"paths": ["a.jpg", "b.jpg"]},
        {"shards": [[b"a.tar"]]},
        {"shard_bytes": [1000, 1000]},
    ],
    ids=str,
)
def test_an_index_that_leads_out_of_its_shards_is_refused(tmp_path, changes):
    with pytest.raises(DataError, match=f"index.npz: damaged .{next(iter(changes))}: .*; delete it"):
        find_index(written(tmp_path / "S", **changes))


def test_annotations_whose_files_leave_the_folder_are_refused(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images" / "val").mkdir(parents=True)
    entry = {"id": 1, "file_name": "../../../etc/passwd", "height": 4, "width": 4}
    content = {"images": [entry], "categories": [{"id": 1, "name": "a"}], "annotations": []}
    path = tmp_path / "annotations" / "instances_val.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="leaves the dataset's folder"):
        read_coco(tmp_path, "val", masks=False, keep_empty=True)
    content["images"] = [{"id": 1, "file_name": "a.jpg", "height": 10**6, "width": 10**6}]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="bomb"):
        read_coco(tmp_path, "val", masks=False, keep_empty=True)


def test_a_list_whose_names_leave_the_folder_is_refused(tmp_path):
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("000001\n../../secret\n")
    with pytest.raises(DataError, match="secret"):
        VocFolder(tmp_path).names("val")


def test_an_annotation_that_expands_for_ever_is_refused(tmp_path):
    for name in ("Annotations", "ImageSets", "JPEGImages"):
        (tmp_path / name).mkdir()
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    text = f'<!DOCTYPE a [<!ENTITY l0 "lol">{entities}]><annotation><object><name>&l9;</name></object></annotation>'
    (tmp_path / "Annotations" / "a.xml").write_text(text)
    with pytest.raises(DataError, match="a.xml"):
        VocFolder(tmp_path).objects("a")
