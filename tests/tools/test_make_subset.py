import pytest

from data.listing import find_images
from tools.make_subset import main


@pytest.fixture
def folder(tmp_path):
    for number in range(40):
        path = tmp_path / "data" / "train" / f"n{number % 4:02d}" / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def subset(folder, *options, name="list.txt"):
    out = folder / name
    assert main(["--image_dir", str(folder / "data"), "--out", str(out), *options]) == 0
    images = find_images(folder / "data", subset=str(out))
    return [images.name(index) for index in range(len(images))]


def test_a_subset_of_classes_holds_all_their_images(folder):
    names = subset(folder, "--classes", "2")
    assert len(names) == 20 and len({name.split("/")[0] for name in names}) == 2


def test_a_share_is_taken_of_every_class(folder):
    names = subset(folder, "--fraction", "0.3")
    assert {prefix: sum(name.startswith(prefix) for name in names) for prefix in ("n00", "n01", "n02", "n03")} == {
        "n00": 3, "n01": 3, "n02": 3, "n03": 3,
    }  # fmt: skip
    assert len(subset(folder, "--fraction", "0.001")) == 4


def test_the_seed_decides(folder):
    assert subset(folder, "--fraction", "0.3", "--seed", "1") == subset(folder, "--fraction", "0.3", "--seed", "1")
    assert subset(folder, "--fraction", "0.3", "--seed", "1") != subset(folder, "--fraction", "0.3", "--seed", "2")


def test_more_classes_than_there_are_is_an_error(folder, caplog):
    assert main(["--image_dir", str(folder / "data"), "--classes", "5", "--out", str(folder / "list.txt")]) == 3
    assert "4 classes" in caplog.text and not (folder / "list.txt").exists()


@pytest.mark.parametrize("options", ["--classes 0", "--fraction 1.5", "--classes 1 --fraction 0.1", ""])
def test_wrong_numbers_are_refused(folder, options):
    with pytest.raises(SystemExit) as stopped:
        main(["--image_dir", str(folder / "data"), "--out", "list.txt", *options.split()])
    assert stopped.value.code == 2
