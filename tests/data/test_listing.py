import io
import os
import pickle
import tarfile

import pytest

from data.listing import find_images
from utils.errors import DataError


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(images):
    return [images.name(index) for index in range(len(images))]


@pytest.mark.parametrize("layout", ["images/train", "images/train2017", "train", "train2017"])
def test_a_splits_folder_is_found(tmp_path, layout):
    touch(tmp_path / layout / "n01" / "a.JPEG", tmp_path / layout / "b.jpg", tmp_path / "other.png")
    images = find_images(tmp_path, split="train")
    assert images.root == tmp_path / layout and images.split == "train"
    assert names(images) == ["b.jpg", "n01/a.JPEG"]
    assert [images.class_name(index) for index in range(2)] == ["", "n01"]
    assert images.path(1) == tmp_path / layout / "n01" / "a.JPEG"


def test_images_slash_split_goes_before_split(tmp_path):
    touch(tmp_path / "images" / "val" / "a.png", tmp_path / "val" / "mask.png")
    assert names(find_images(tmp_path, split="val")) == ["a.png"]


def test_a_flat_folder_is_listed_itself_at_any_depth_without_its_masks(tmp_path):
    touch(tmp_path / "b" / "c" / "d.webp", tmp_path / "a.jpg", tmp_path / "masks" / "fh" / "train" / "a.jpg.png")
    assert names(find_images(tmp_path)) == ["a.jpg", "b/c/d.webp"]


def test_another_split_is_never_taken_for_the_one_asked_for(tmp_path):
    touch(tmp_path / "images" / "val" / "a.jpg")
    with pytest.raises(DataError, match="no split 'train' there, but val"):
        find_images(tmp_path, split="train")


def test_the_list_is_sorted_and_leaves_out_hidden_files_and_other_kinds(tmp_path):
    touch(*(tmp_path / name for name in ("b.jpg", "a.jpg", "._a.jpg", "c.txt", ".hidden/d.jpg", "B.PNG")))
    assert names(find_images(tmp_path)) == ["B.PNG", "a.jpg", "b.jpg"]


@pytest.fixture
def shards(tmp_path):
    """Makes a folder of shards of these names, an image in each."""

    def make(*names):
        for name in names:
            with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
                entry = tarfile.TarInfo(f"{name}.jpg")
                entry.size = 1
                tar.addfile(entry, io.BytesIO(b"x"))
        return tmp_path

    return make


@pytest.mark.parametrize("split", ["train", "val"])
def test_shards_of_several_splits_in_one_folder_are_refused(shards, split):
    root = shards("imagenet1k-train-0000", "imagenet1k-validation-00")
    with pytest.raises(DataError, match=f"holds shards of train and val, .* {split}: .*own, {root / split}"):
        find_images(root, split=split)
    (root / split).mkdir()
    (root / "imagenet1k-train-0000.tar").rename(root / split / "a-train-0.tar")
    assert names(find_images(root, split=split)) == ["imagenet1k-train-0000.jpg"]


def test_shards_of_another_split_are_refused_and_those_of_none_are_taken(shards):
    root = shards("train2017-0000", "trains-0", "more")
    assert len(find_images(root, split="train")) == 3
    for split in ("val", "mine"):
        with pytest.raises(DataError, match=f"holds shards of train, .* data.split is {split}"):
            find_images(root, split=split)


def test_linked_folders_are_followed_and_loops_end(tmp_path):
    touch(tmp_path / "far" / "x.jpg")
    root = tmp_path / "images" / "train"
    root.mkdir(parents=True)
    (root / "n01").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "loop").symlink_to(root)
    assert names(find_images(tmp_path)) == ["n01/x.jpg"]


def test_names_that_are_no_text_are_kept(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    images = find_images(tmp_path)
    assert images.path(0).read_bytes() == b"x"


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        find_images(tmp_path / "nowhere")
    touch(tmp_path / "readme.txt")
    with pytest.raises(DataError, match="no image there"):
        find_images(tmp_path)


def test_the_hash_tells_lists_apart_and_ignores_the_place(tmp_path):
    for place, name in (("one", "a.jpg"), ("two", "a.jpg"), ("three", "b.jpg")):
        touch(tmp_path / place / name)
    one, two, three = (find_images(tmp_path / place).listing_hash for place in ("one", "two", "three"))
    assert one == two != three


def test_a_list_survives_pickling(tmp_path):
    touch(tmp_path / "a.jpg")
    images = pickle.loads(pickle.dumps(find_images(tmp_path)))
    assert names(images) == ["a.jpg"] and images.listing_hash == find_images(tmp_path).listing_hash


@pytest.mark.parametrize(
    "lines, expected",
    [("n01\n", ["n01/a.jpg", "n01/b.jpg"]), ("b.jpg\n# n01\n\n", ["n01/b.jpg"]), ("n02/c.jpg\n", ["n02/c.jpg"])],
    ids=["class", "file name", "relative path"],
)
def test_a_subset_names_classes_or_files(tmp_path, lines, expected):
    touch(*(tmp_path / "train" / name for name in ("n01/a.jpg", "n01/b.jpg", "n02/c.jpg")))
    (tmp_path / "list.txt").write_text(lines)
    assert names(find_images(tmp_path, subset=str(tmp_path / "list.txt"))) == expected


def test_a_subset_that_names_something_else_warns_or_stops(tmp_path, caplog):
    touch(tmp_path / "train" / "n01" / "a.jpg")
    (tmp_path / "list.txt").write_text("n01\nn99\n")
    assert len(find_images(tmp_path, subset=str(tmp_path / "list.txt"))) == 1
    assert "1 entries are not in" in caplog.text and "n99" in caplog.text
    (tmp_path / "list.txt").write_text("n99\n")
    with pytest.raises(DataError, match="none of its 1 classes or files"):
        find_images(tmp_path, subset=str(tmp_path / "list.txt"))


def test_a_published_subset_that_is_not_here_says_how_to_get_or_make_it(tmp_path):
    touch(tmp_path / "train" / "n01" / "a.jpg")
    with pytest.raises(DataError, match=r"data/subsets/imagenet100\.txt.*tools\.make_subset"):
        find_images(tmp_path, subset="imagenet100")
