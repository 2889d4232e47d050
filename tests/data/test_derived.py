import pytest

from data.derived import is_complete, lacking_files, missing_files, read_meta, write_meta
from data.listing import find_images


def test_missing_files_are_told_apart_by_folder_and_suffix(folder, tmp_path):
    images, made = find_images(folder), tmp_path / "made"
    assert missing_files(made, images, suffix=".npy") == list(range(12))
    for index in (0, 7):
        path = made / f"{images.name(index)}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    # A leftover of a kill, another suffix, and a name of another folder count for nothing.
    for other in (
        f"class0/.tmp-0123abcd-{images.path(1).name}.npy",
        f"{images.name(1)}.png",
        images.path(2).name + ".npy",
    ):
        (made / other).touch()
    assert missing_files(made, images, suffix=".npy") == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11]


def test_files_at_the_root_of_the_listing_are_found(folder, tmp_path):
    images = find_images(folder / "images" / "train" / "class0")
    (tmp_path / f"{images.name(3)}.npy").touch()
    assert missing_files(tmp_path, images, suffix=".npy") == [0, 1, 2, 4, 5]


def test_an_unreadable_image_lacks_nothing(folder, tmp_path):
    images = find_images(folder)
    images.path(4).write_bytes(b"text")
    assert list(lacking_files(tmp_path, images, suffix=".npy")) == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11]


def test_the_note_tells_the_listing_it_is_complete_for(folder, tmp_path):
    (tmp_path / "subset.txt").write_text("class0\n")
    images, subset = find_images(folder), find_images(folder, subset=str(tmp_path / "subset.txt"))
    note = {"tool": "test", "parameters": {"k": 1}, "versions": {}}
    assert not is_complete(tmp_path, subset)
    write_meta(tmp_path, None, **note)
    assert read_meta(tmp_path)["parameters"] == {"k": 1} and not is_complete(tmp_path, subset)
    write_meta(tmp_path, subset, **note)
    assert is_complete(tmp_path, subset) and not is_complete(tmp_path, images)
    write_meta(tmp_path, images, **note)
    assert is_complete(tmp_path, subset) and is_complete(tmp_path, images)
    assert read_meta(tmp_path)["parameters"] == {"k": 1}


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff"])
def test_a_damaged_note_counts_as_none(tmp_path, text):
    (tmp_path / "meta.json").write_text(text, encoding="latin-1")
    assert read_meta(tmp_path) == {}
