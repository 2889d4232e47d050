import pytest

from data.voc_objects import read_voc
from utils.errors import DataError

CLASSES = ("cat", "dog")
XML = (
    "<annotation><size><width>8</width><height>6</height></size>{}</annotation>",
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"
    "</bndbox></object>",
)


def write_part(folder, split, images):
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(images))
    for name, objects in images.items():
        (folder / "Annotations" / f"{name}.xml").write_text(XML[0].format("".join(XML[1].format(*o) for o in objects)))


@pytest.fixture
def root(tmp_path):
    write_part(tmp_path / "VOC2007", "trainval", {"000001": [("dog", 1, 1, 1, 8, 6), ("cat", 0, 2, 3, 4, 5)]})
    write_part(tmp_path / "VOC2012", "trainval", {"2008_1": [("dog", 0, 3, 3, 3, 3)], "2008_2": []})
    return tmp_path


def test_parts_stand_one_behind_the_other_with_their_difficult_objects(root):
    found = read_voc(root, ["VOC2007/trainval", "VOC2012/trainval"], classes=CLASSES, keep_empty=False)
    assert [found.name(i) for i in range(2)] == ["VOC2007/JPEGImages/000001.jpg", "VOC2012/JPEGImages/2008_1.jpg"]
    first = found.objects(0)
    assert first.boxes.tolist() == [[0, 0, 8, 6], [1, 2, 4, 5]] and first.labels.tolist() == [1, 0]
    assert first.difficult.tolist() == [True, False] and first.size == (6, 8)
    # A box of one pixel is one pixel wide.
    assert found.objects(1).boxes.tolist() == [[2, 2, 3, 3]]


def test_images_without_objects_stay_in_a_test_set(root):
    assert len(read_voc(root, ["VOC2012/trainval"], classes=CLASSES, keep_empty=True)) == 2


def test_a_split_alone_is_one_of_the_root_itself(root):
    assert len(read_voc(root / "VOC2007", ["trainval"], classes=CLASSES, keep_empty=False)) == 1


def test_too_few_classes_are_refused(root):
    with pytest.raises(DataError, match="class 'dog'"):
        read_voc(root, ["VOC2007/trainval"], classes=("cat",), keep_empty=False)
