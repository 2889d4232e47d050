import numpy as np
import pytest
from PIL import Image

from data.voc import VOC_CLASSES, VocFolder
from utils.errors import DataError

XML = """<annotation><size><width>40</width><height>30</height><depth>3</depth></size>{}</annotation>"""
OBJECT = """<object><name>{}</name><difficult>{}</difficult>
<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"""


@pytest.fixture
def voc(tmp_path):
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/val.txt").write_text("a\nb\n")
    (tmp_path / "ImageSets/Main/cat_val.txt").write_text("b  1\na -1\n")
    (tmp_path / "ImageSets/Main/dog_val.txt").write_text("a  0\nb -1\n")
    return VocFolder(tmp_path, ("cat", "dog"))


def annotate(voc, *objects):
    (voc.root / "Annotations/a.xml").write_text(XML.format("".join(OBJECT.format(*one) for one in objects)))


def test_voc_has_its_twenty_classes_in_order():
    assert len(VOC_CLASSES) == 20 and VOC_CLASSES[0] == "aeroplane" and VOC_CLASSES[14] == "person"


def test_boxes_are_counted_from_zero_and_end_where_they_end(voc):
    # VOC's 1, 1, 40, 30 is a whole image of 40 x 30.
    annotate(voc, ("dog", 0, 1, 1, 40, 30), ("cat", 1, 3, 4, 3, 4))
    objects = voc.objects("a")
    assert objects.boxes.tolist() == [[0, 0, 40, 30], [2, 3, 3, 4]]
    assert objects.labels.tolist() == [1, 0] and objects.difficult.tolist() == [False, True]
    assert objects.size == (30, 40)


def test_an_image_without_objects_has_none(voc):
    annotate(voc)
    assert voc.objects("a").boxes.shape == (0, 4) and voc.objects("a").labels.shape == (0,)


@pytest.mark.parametrize(
    ("box", "cut"),
    [((0, 1, 5, 5), [0, 0, 5, 5]), ((1, 1, 41, 5), [0, 0, 40, 5]), ((39, 29, 60, 60), [38, 28, 40, 30])],
)
def test_a_box_that_leaves_the_image_is_cut_to_it(voc, box, cut):
    annotate(voc, ("dog", 0, *box))
    assert voc.objects("a").boxes.tolist() == [cut]


@pytest.mark.parametrize("box", [(7, 1, 5, 5), (1, 1, 5, 0), (41, 1, 50, 5), (-9, -9, 0, 0)])
def test_a_box_of_which_nothing_lies_in_the_image_is_left_out(voc, box):
    annotate(voc, ("dog", 0, *box), ("cat", 1, 1, 1, 2, 2))
    objects = voc.objects("a")
    assert objects.boxes.tolist() == [[0, 0, 2, 2]]
    assert objects.labels.tolist() == [0] and objects.difficult.tolist() == [True]


def test_a_class_that_is_not_named_is_refused(voc):
    annotate(voc, ("horse", 0, 1, 1, 5, 5))
    with pytest.raises(DataError, match=r"a\.xml: an object of class 'horse', which data.classes"):
        voc.objects("a")


@pytest.mark.parametrize("text", ["", "<annotation>", "<annotation></annotation>", XML.format("<object></object>")])
def test_a_damaged_annotation_is_refused(voc, text):
    (voc.root / "Annotations/a.xml").write_text(text)
    with pytest.raises(DataError, match=r"a\.xml: no annotation of VOC's kind"):
        voc.objects("a")


def test_missing_files_and_lists_are_named(voc):
    with pytest.raises(DataError, match=r"Annotations/b\.xml: No such file"):
        voc.objects("b")
    with pytest.raises(DataError, match=r"Main/test\.txt: no such list; there are: val"):
        voc.names("test")
    with pytest.raises(DataError, match="no folder ImageSets"):
        VocFolder(voc.root / "JPEGImages")


def test_image_labels_follow_the_splits_order_not_each_lists(voc):
    names, labels = voc.image_labels("val")
    assert names == ["a", "b"] and labels.tolist() == [[-1, 0], [1, -1]]


@pytest.mark.parametrize("lines", ["a 1\n", "a 1\nc 1\n", "a 1\nb 2\n", "a\nb\n"])
def test_a_class_list_that_does_not_fit_is_refused(voc, lines):
    (voc.root / "ImageSets/Main/dog_val.txt").write_text(lines)
    with pytest.raises(DataError, match=r"dog_val\.txt"):
        voc.image_labels("val")


def test_a_segmentation_keeps_void_and_refuses_unknown_classes(voc):
    labels = np.array([[0, 1], [2, 255]], dtype=np.uint8)
    Image.fromarray(labels).save(voc.root / "SegmentationClass/a.png")
    np.testing.assert_array_equal(voc.segmentation("a"), labels)
    Image.fromarray(labels + np.array([[0, 2], [0, 0]], dtype=np.uint8)).save(voc.root / "SegmentationClass/b.png")
    with pytest.raises(DataError, match=r"b\.png: a pixel of class 3, but there are 2"):
        voc.segmentation("b")


def test_a_segmentation_in_colours_or_damaged_is_refused(voc):
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(voc.root / "SegmentationClass/a.png")
    (voc.root / "SegmentationClass/b.png").write_bytes(b"no picture")
    for name in ("a", "b", "missing"):
        with pytest.raises(DataError, match=f"{name}.png"):
            voc.segmentation(name)
