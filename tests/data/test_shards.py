"""Shards against the folder that they were made of."""

import io
import json
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from data import shards as module
from data.box_views import BoxViews
from data.boxes import Jitter
from data.correspondence import Correspondence
from data.images import UnreadableImage, read_image
from data.label_maps import (
    LabelMapError,
    check_label_maps,
    find_mask_dir,
    label_map_file,
    label_map_path,
    missing_label_maps,
    read_label_map,
    write_label_map,
)
from data.listing import find_images
from data.masked_views import BootstrappedViews, Generations, MaskedViews, MaskFolder
from data.orientation import upright_shape
from data.photometric import BYOL_VIEW_1, BYOL_VIEW_2
from data.photos import read_or_replace
from data.pickled_masks import find_pickles
from data.ragged import Ragged
from data.shard_index import INDEX
from data.views import R2OViews, TwoViews, ViewSpec
from tools.make_shards import make_shards
from utils.errors import DataError, UserError

SPEC = ViewSpec(size=16)
MAPS = {"own": (40, 48), "slic10_20": (20, 20)}


@pytest.fixture
def masks(folder, tmp_path):
    """Label maps of two types of the twelve images."""
    images, rng = find_images(folder), np.random.default_rng(0)
    for mask_type, shape in MAPS.items():
        for index in range(len(images)):
            path = label_map_path(tmp_path / "masks", mask_type, "train", images.name(index))
            write_label_map(path, rng.integers(0, 9, shape))
    return tmp_path / "masks"


@pytest.fixture
def packed(folder, masks, tmp_path):
    """A folder with the images and their maps in shards of five."""
    make_shards(find_images(folder), tmp_path / "S", dict.fromkeys(MAPS, masks), images_per_shard=5, workers=1)
    return tmp_path / "S"


def assert_same_items(one, other):
    for key in [(epoch, index) for epoch in (0, 3) for index in range(12)]:
        ours, theirs = one[key], other[key]
        assert ours.keys() == theirs.keys()
        for name in ours:
            same = torch.equal if isinstance(ours[name], torch.Tensor) else lambda a, b: a == b
            assert same(ours[name], theirs[name]), name


def write_tar(path, parts):
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, "w") as tar:
        for name, content in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


@pytest.fixture
def photos(folder):
    """The files of the twelve images."""
    images = find_images(folder)
    return [images.path(index).read_bytes() for index in range(len(images))]


def test_listing_hash_classes_and_files_are_the_folders(folder, packed):
    images, ours = find_images(folder), find_images(packed)
    assert ours.listing_hash == images.listing_hash and ours.paths.tolist() == images.paths.tolist()
    for index in range(12):
        assert ours.path(index).read_bytes() == images.path(index).read_bytes()
        assert ours.class_name(index) == images.class_name(index)
        assert upright_shape(ours.path(index)) == upright_shape(images.path(index)) == (40, 48)
    assert sorted(np.bincount(ours.shard_of)) == [2, 5, 5]


def test_every_dataset_gives_the_folders_items_to_the_bit(folder, masks, packed):
    images, ours = find_images(folder), find_images(packed)
    inside = packed / "train"
    options = {"spec": SPEC, "seed": 0}
    assert_same_items(TwoViews(images, **options), TwoViews(ours, **options))
    r2o = options | {"superpixel_size": 20, "segments": 10}
    assert_same_items(R2OViews(images, mask_dir=masks, **r2o), R2OViews(ours, mask_dir=inside, **r2o))
    detcon = options | {"mask_type": "own", "num_uniforms": 3}
    assert_same_items(MaskedViews(images, mask_dir=masks, **detcon), MaskedViews(ours, mask_dir=inside, **detcon))

    def generations(where):
        return Generations(MaskFolder(where, "own"), mask_dir="none", every=None)

    assert_same_items(
        BootstrappedViews(images, generations=generations(masks), num_uniforms=3, **options),
        BootstrappedViews(ours, generations=generations(inside), num_uniforms=3, **options),
    )


def test_boxes_of_neighbours_are_cut_out_of_shards_too(folder, packed):
    boxes = Ragged.from_rows([np.array([[4, 4, 20, 20]])] * 12, width=4, dtype=np.uint16)
    pairs = Ragged.from_rows([np.array([[0, 0, 9, 9, 5, 5, 9, 9]])] * 12, width=8, dtype=np.uint16)
    correspondence = Correspondence(boxes, (np.arange(12, dtype=np.int32)[:, None] + 1) % 12, pairs)
    spec = ViewSpec(size=16, photometric=(BYOL_VIEW_1, BYOL_VIEW_2))
    options = {"spec": spec, "patch_size": 8, "jitter": Jitter(), "seed": 0}
    ours, theirs = (BoxViews(find_images(one), correspondence, **options) for one in (folder, packed))
    assert_same_items(ours, theirs)


def test_a_subset_is_the_folders_subset(folder, packed, tmp_path):
    (tmp_path / "some.txt").write_text("class1\n00.jpg\n")
    images, ours = (find_images(one, subset=str(tmp_path / "some.txt")) for one in (folder, packed))
    assert len(ours) == 7 and ours.listing_hash == images.listing_hash
    held = ours.held_maps(packed / "train", "own")
    for index in range(7):
        assert ours.path(index).read_bytes() == images.path(index).read_bytes()
        theirs = label_map_path(folder / "masks", "own", "train", images.name(index))
        assert np.array_equal(read_label_map(held.file(index)), read_label_map(theirs))


def test_maps_in_shards_are_found_however_their_folder_is_spelled(packed, tmp_path, monkeypatch):
    ours = find_images(packed)
    (tmp_path / "link").symlink_to(packed / "train")
    monkeypatch.chdir(packed)
    for place in ("train", "./train/", "../S/train", str(packed / "train" / ".." / "train"), tmp_path / "link"):
        assert missing_label_maps(label_map_path(place, "own", "train", "").parent, ours) == [], place
        assert label_map_file(ours, 3, mask_dir=place, mask_type="own").exists()
    assert ours.held_maps(packed, "own") is None


def test_maps_are_taken_from_the_config_then_the_shards_then_the_folder_beside(folder, packed):
    ours = find_images(packed)
    assert find_mask_dir(ours, "own", mask_dir=None, image_dir=str(packed)) == packed / "train"
    assert find_mask_dir(ours, "fh", mask_dir=None, image_dir=str(packed)) == packed / "masks"
    assert find_mask_dir(ours, "own", mask_dir="else", image_dir=str(packed)).name == "else"
    assert find_mask_dir(find_images(folder), "own", mask_dir=None, image_dir=str(folder)) == folder / "masks"


def test_a_listing_goes_to_other_processes_as_arrays_alone(packed):
    ours, buffers = find_images(packed), []
    flat = pickle.dumps(ours, protocol=5, buffer_callback=buffers.append)
    assert len(flat) < 3000 and sum(len(one.raw()) for one in buffers) >= ours.paths.nbytes
    again = pickle.loads(flat, buffers=buffers)
    assert again.path(7) == ours.path(7) and again.listing_hash == ours.listing_hash


def test_the_same_images_packed_otherwise_are_told_apart(folder, masks, packed, tmp_path):
    """Places of one packing, read from another, would be rubbish."""
    images, twice = find_images(folder), tmp_path / "T"
    make_shards(images, twice, dict.fromkeys(MAPS, masks), images_per_shard=5, workers=1)
    assert find_images(packed).packing == find_images(twice).packing != "" == images.packing
    make_shards(images, tmp_path / "U", dict.fromkeys(MAPS, masks), images_per_shard=5, seed=1, workers=1)
    other = find_images(tmp_path / "U")
    assert other.packing != find_images(twice).packing and other.listing_hash == images.listing_hash


def test_few_shards_are_open_at_a_time(packed, monkeypatch):
    ours = find_images(packed)
    monkeypatch.setattr(module, "_opened", module.lru_cache(maxsize=2)(module._Opened))

    def open_tars():
        paths = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        return sum(os.readlink(path).startswith(str(packed)) for path in paths if os.path.lexists(path))

    before = open_tars()
    for index in [*range(12), *range(12)]:
        ours.path(index).read_bytes()
        assert open_tars() - before <= 2


def test_what_a_file_system_gives_in_pieces_is_read_whole(packed, monkeypatch):
    ours, pread = find_images(packed), os.pread
    content = ours.path(3).read_bytes()
    monkeypatch.setattr(os, "pread", lambda number, size, offset: pread(number, min(size, 100), offset))
    assert ours.path(3).read_bytes() == content and len(content) > 100


def test_threads_read_while_others_shards_are_closed(packed, monkeypatch):
    ours = find_images(packed)
    contents = [ours.path(index).read_bytes() for index in range(12)]
    monkeypatch.setattr(module, "_opened", module.lru_cache(maxsize=1)(module._Opened))
    with ThreadPoolExecutor(4) as pool:
        order = [index % 12 for index in range(4000)]
        assert list(pool.map(lambda index: ours.path(index).read_bytes(), order)) == [
            contents[index] for index in order
        ]


def test_the_index_is_made_again_of_the_tars_headers(packed):
    index = packed / "train" / INDEX
    before, listed = index.read_bytes(), find_images(packed)
    index.unlink()
    again = find_images(packed)
    assert again.paths.tolist() == listed.paths.tolist()
    for ours, theirs in zip(again.index, listed.index):
        assert np.array_equal(ours, theirs)
    assert index.read_bytes() == before


def test_tars_of_others_are_read_by_webdatasets_rule(tmp_path, photos, caplog):
    """The key ends at the first dot; what has no image is no sample; hidden files are nothing."""
    labels = tmp_path / "a.png"
    write_label_map(labels, np.eye(8, dtype=int))
    write_tar(
        tmp_path / "S" / "x.tar",
        {
            "./n01/0001.JPEG": photos[0],
            "./n01/0001.cls": b"3",
            "./n01/0001.seg.png": labels.read_bytes(),
            "n02.v1/\u6c49 x.jpg": photos[1],
            "n02.v1/\u6c49 x.json": b"[1, 2]",
            "n02.v1/._0001.jpg": b"rubbish",
            "n03/a.b.jpg": photos[2],
            "n03/notes.txt": b"...",
        },
    )
    write_tar(tmp_path / "S" / "y.tar", {"n00.png": photos[3]})
    images = find_images(tmp_path / "S")
    assert [images.name(index) for index in range(3)] == ["n00.png", "n01/0001.JPEG", "n02.v1/\u6c49 x.jpg"]
    assert [images.path(index).read_bytes() for index in range(3)] == [photos[3], photos[0], photos[1]]
    assert "x.tar: 1 images there have more dots" in caplog.text
    assert missing_label_maps(images.root / "seg" / "train", images) == [0, 2]
    assert read_label_map(label_map_file(images, 1, mask_dir=images.root, mask_type="seg")).max() == 1


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"a.jpg": b"1", "a.png": b"2"}, "two images of one key, a.jpg and a.png; .*KEY.TYPE.png"),
        ({"../a.jpg": b"1"}, "leaves the dataset's folder"),
        ({"a.txt": b"1"}, "no image in its 1 tars"),
    ],
)
def test_tars_that_cannot_be_meant_are_refused(tmp_path, parts, message):
    write_tar(tmp_path / "x.tar", parts)
    with pytest.raises(DataError, match=message):
        find_images(tmp_path)


@pytest.mark.parametrize(
    "note",
    [
        json.dumps({"relative_path": "\ud800.jpg"}).encode(),
        json.dumps({"relative_path": "/etc/a.jpg"}).encode(),
        json.dumps({"relative_path": "../a.jpg"}).encode(),
        b"[" * 50_000,
        b"\xff",
    ],
    ids=["no text", "absolute", "climbs", "nested", "no JSON"],
)
def test_a_note_of_no_name_leaves_the_image_the_tars_name(tmp_path, note):
    write_tar(tmp_path / "x.tar", {"b/a.jpg": b"1", "b/a.json": note})
    assert find_images(tmp_path).name(0) == "b/a.jpg"


def test_an_image_in_two_shards_is_refused(tmp_path, photos):
    for name in ("x.tar", "y.tar"):
        write_tar(tmp_path / "S" / name, {"a.jpg": photos[0]})
    with pytest.raises(DataError, match="x.tar: its image a.jpg is in .*y.tar too"):
        find_images(tmp_path / "S")


def test_tars_beside_the_folders_that_they_were_unpacked_into_are_not_read(folder, photos):
    write_tar(folder / "images" / "train" / "class0.tar", {"other.jpg": photos[0]})
    assert len(find_images(folder)) == 12
    write_tar(folder / "T" / "x.tar", {"other.jpg": photos[0]})
    (folder / "T" / "notes").mkdir()
    with pytest.raises(DataError, match="its tars are shards only where neither folders nor images"):
        find_images(folder / "T")


def test_missing_truncated_changed_and_unknown_shards_are_named(packed, photos):
    first, second, _ = sorted((packed / "train").glob("*.tar"))
    content = first.read_bytes()
    first.write_bytes(content[:-5000])
    with pytest.raises(DataError, match=f"{first.name}: truncated or changed"):
        find_images(packed)
    first.unlink()
    with pytest.raises(DataError, match=f"{first.name}: the shard is missing; .*{INDEX}"):
        find_images(packed)
    first.write_bytes(content)
    write_tar(packed / "train" / "more.tar", {"more.jpg": photos[0]})
    with pytest.raises(
        DataError, match=f"more.tar: a shard that .* does not know; delete .*{INDEX}, and .*; or the shard"
    ):
        find_images(packed)
    (packed / "train" / "more.tar").unlink()
    (packed / "train" / INDEX).write_bytes(b"no index")
    with pytest.raises(DataError, match=f"{INDEX}: damaged .*delete it"):
        find_images(packed)
    (packed / "train" / INDEX).unlink()
    second.write_bytes(content[:3000])
    with pytest.raises(DataError, match=f"{second.name}: truncated"):
        find_images(packed)


def test_an_index_among_image_files_is_none_of_shards(folder, packed):
    np.savez(folder / "images" / "train" / INDEX, anything=np.zeros(3))
    assert len(find_images(folder)) == 12
    for path in (packed / "train").glob("*.tar"):
        path.unlink()
    with pytest.raises(DataError, match="000000.tar: the shard is missing"):
        find_images(packed)


def test_an_index_that_would_run_code_is_refused(packed):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(packed / "harm"),)

    np.savez(packed / "train" / INDEX, version=np.array([Harm()], dtype=object))
    with pytest.raises(DataError, match=f"{INDEX}: damaged"):
        find_images(packed)
    assert not (packed / "harm").exists()


def test_a_damaged_image_in_a_shard_is_replaced_by_the_one_that_the_folder_gives(folder, masks, tmp_path):
    images = find_images(folder)
    images.path(4).write_bytes(b"no photo")
    make_shards(images, tmp_path / "S", {}, images_per_shard=5, workers=1)
    ours = find_images(tmp_path / "S")
    for epoch in range(5):
        photo, expected = (read_or_replace(one, seed=0, epoch=epoch, index=4) for one in (ours, images))
        assert photo.index == expected.index and photo.unreadable == expected.unreadable
        assert np.array_equal(photo.image, expected.image)


def test_a_shard_that_goes_away_in_a_run_is_named(packed):
    ours = find_images(packed)
    file = ours.path(3)
    module._opened.cache_clear()
    os.remove(file.shard)
    with pytest.raises(UnreadableImage, match=f"{os.path.basename(file.shard)}: class0/06.jpg: No such file"):
        read_image(file)
    module._opened.cache_clear()
    with open(file.shard, "wb") as shard:
        shard.write(b"short")
    with pytest.raises(UnreadableImage, match="the shard ends within it"):
        read_image(file)


def test_maps_that_lack_in_the_shards_are_told_with_the_remedy(folder, masks, tmp_path):
    images = find_images(folder)
    label_map_path(masks, "own", "train", images.name(2)).unlink()
    with pytest.raises(DataError, match="1 of 12 images have no label map .*make_masks"):
        make_shards(images, tmp_path / "S", {"own": masks}, images_per_shard=5, workers=1)
    write_tar(tmp_path / "T" / "x.tar", {"a.jpg": images.path(0).read_bytes(), "a.own.png": b"rubbish"})
    write_tar(tmp_path / "T" / "y.tar", {"b.jpg": images.path(1).read_bytes()})
    ours = find_images(tmp_path / "T")
    with pytest.raises(DataError, match="1 of 2 images .* such as b.jpg; .*tools.make_shards"):
        check_label_maps(tmp_path / "T", "own", ours)
    with pytest.raises(LabelMapError, match=r"x.tar: a.jpg \(own\): no complete PNG; .*tools.make_shards"):
        read_label_map(label_map_file(ours, 0, mask_dir=tmp_path / "T", mask_type="own"))
    with pytest.raises(LabelMapError, match="b.jpg .*: not in the shard"):
        read_label_map(label_map_file(ours, 1, mask_dir=tmp_path / "T", mask_type="own"))


def test_published_masks_cannot_be_imported_into_shards(packed):
    with pytest.raises(UserError, match="give the folder that the shards were made of"):
        find_pickles(packed, find_images(packed), kind="fh", type="fh")
