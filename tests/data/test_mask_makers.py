import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from data.coco_masks import Coco
from data.mask_makers import FH, Grid, Ground, MaskError, OpenCVFH, Slic, maker_of
from data.superpixels import slic_labels
from tests.paths import REFERENCE
from utils.errors import DataError, UserError


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE / "fh_slic_masks.npz") as arrays:
        return dict(arrays)


def test_fh_segments_equal_detcons(reference):
    for name in reference["names"]:
        assert np.array_equal(FH()(reference[f"{name}_image"], name), reference[f"{name}_fh"])


def test_a_grid_equals_detcons_with_the_rest_in_the_last_cells(reference):
    for name in reference["names"]:
        assert np.array_equal(Grid()(reference[f"{name}_image"], name), reference[f"{name}_patch3x3"])


def test_a_grid_counts_down_the_columns():
    expected = [[0, 2, 4, 4], [0, 2, 4, 4], [1, 3, 5, 5], [1, 3, 5, 5], [1, 3, 5, 5]]
    assert Grid(rows=2, columns=3)(np.zeros((5, 4, 3)), "").tolist() == expected


def test_a_grid_finer_than_the_image_is_its_pixels():
    assert len(np.unique(Grid(rows=5, columns=9)(np.zeros((2, 3, 3)), ""))) == 6


def test_opencvs_segments_are_no_smaller_than_asked_and_mostly_scikit_images(reference):
    image = reference["astronaut_image"]
    labels = OpenCVFH()(image, "")
    assert labels.shape == image.shape[:2] and np.bincount(labels.ravel()).min() >= 1000
    # Each of its segments stands for the segment of scikit-image's that it overlaps most.
    pairs = np.unique(np.stack([labels.ravel(), reference["astronaut_fh"].ravel()]), axis=1, return_counts=True)
    best = [pairs[1][pairs[0][0] == label].max() for label in np.unique(labels)]
    assert sum(best) / labels.size > 0.8


@pytest.mark.parametrize("maker", [FH, OpenCVFH])
def test_smaller_scale_and_minimum_give_more_segments(reference, maker):
    image = reference["chelsea_image"]
    assert maker(scale=100, min_size=50)(image, "").max() > 2 * maker(scale=500, min_size=500)(image, "").max() + 2


def test_superpixels_are_those_of_r2o_or_of_the_images_own_size(photo):
    assert np.array_equal(Slic(20, 32)(photo, ""), slic_labels(photo, segments=20, size=32))
    labels = Slic(20, None)(photo, "")
    assert labels.shape == photo.shape[:2] and 5 < len(np.unique(labels)) <= 30


@pytest.mark.parametrize(
    "maker, name",
    [
        (FH(), "fh"),
        (FH(scale=1000.0), "fh"),
        (FH(scale=1000, min_size=500), "fh_s1000_m500"),
        (FH(scale=0.5, min_size=0), "fh_s0.5_m0"),
        (FH(scale=1234567, min_size=1), "fh_s1234567_m1"),
        (OpenCVFH(), "fh_opencv"),
        (OpenCVFH(scale=200, min_size=1000), "fh_opencv_s200_m1000"),
        (Slic(), "slic100_224"),
        (Slic(50, None), "slic50"),
        (Grid(2, 10), "grid2x10"),
    ],
)
def test_a_types_name_tells_its_maker(maker, name):
    assert maker.type == name and maker_of(name) == maker


@pytest.mark.parametrize("name", ["ground", "coco", "fh_s1000_m1000", "fh_s5", "slic", "slic0", "grid3", "grid0x3", ""])
def test_a_name_that_tells_no_maker_is_refused(name):
    with pytest.raises(UserError):
        maker_of(name)


@pytest.mark.parametrize("wrong", [{"scale": 0}, {"scale": float("nan")}, {"min_size": -1}])
def test_impossible_scales_are_refused(wrong):
    with pytest.raises(UserError, match="fh: scale"):
        OpenCVFH(**wrong)


def test_ground_takes_a_palettes_indices_not_its_colours(tmp_path, photo):
    labels = Image.new("P", (4, 1))
    labels.putpalette([9, 9, 9] + 255 * [200, 0, 0])
    labels.putdata([0, 1, 2, 255])
    (tmp_path / "n01").mkdir()
    labels.save(tmp_path / "n01" / "a.b.png")
    assert Ground(str(tmp_path))(photo, "n01/a.b.jpg").tolist() == [[0, 1, 2, 255]]


@pytest.mark.parametrize("values", [np.array([[0, 60000]], np.uint16), np.array([[True, False]])], ids=["16", "1"])
def test_ground_reads_16_bits_and_1_bit(tmp_path, photo, values):
    Image.fromarray(values).save(tmp_path / "a_1.png")
    labels = Ground(str(tmp_path), template="{stem}_1.png")(photo, "a.jpg")
    assert labels.tolist() == values.tolist() and labels.dtype.kind == "u"


def test_ground_names_a_missing_and_a_coloured_label_image(tmp_path, photo):
    with pytest.raises(MaskError, match=r"n01/a\.png: No such file"):
        Ground(str(tmp_path))(photo, "n01/a.jpg")
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(MaskError, match=r"a\.png: RGB"):
        Ground(str(tmp_path))(photo, "a.jpg")


def test_ground_names_a_label_image_that_is_damaged_in_the_middle(tmp_path, photo):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 30), np.uint8)).save(stream, "PNG")
    data = stream.getvalue()
    begin = data.index(b"IDAT")
    part = data[begin : begin + 104]
    # A chunk of no known kind between two of pixels: PIL raises a SyntaxError.
    part = struct.pack(">I", 100) + part + struct.pack(">I", zlib.crc32(part)) + b"\0\0\0\4\1\2\3\4"
    (tmp_path / "a.png").write_bytes(data[: begin - 4] + part + data[begin + 104 :])
    with pytest.raises(MaskError, match=r"a\.png: broken PNG file"):
        Ground(str(tmp_path))(photo, "a.jpg")


@pytest.mark.parametrize("name", ["voc_2012", "a/b", "", ".hidden"])
def test_a_name_for_ground_that_would_be_misread_is_refused(name):
    with pytest.raises(UserError, match="the name"):
        Ground("labels", type=name)


def write_coco(path, annotations):
    images = [{"id": 7, "file_name": "a.jpg", "height": 20, "width": 30}, {"id": 9, "file_name": "b.jpg"} | SHAPE]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return str(path)


SHAPE = {"height": 5, "width": 6}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_gives_each_pixel_the_largest_category_over_it(tmp_path, photo):
    square = np.zeros((20, 30), np.uint8, order="F")
    square[8:12, 8:20] = 1
    column_first = square.T.reshape(-1)
    starts = np.flatnonzero(np.diff(np.concatenate([[0], column_first, [0]])))
    runs = np.diff(np.concatenate([[0], starts, [len(column_first)]])).tolist()
    compressed = coco_mask.encode(square)
    path = write_coco(
        tmp_path / "instances.json",
        [
            {
                "image_id": 7,
                "category_id": 3,
                "segmentation": [[0, 0, 10, 0, 10, 10, 0, 10], [20, 0, 25, 0, 25, 20, 20, 20]],
            },
            {"image_id": 7, "category_id": 90, "segmentation": {"counts": runs, "size": [20, 30]}},
            {
                "image_id": 7,
                "category_id": 44,
                "segmentation": {"counts": compressed["counts"].decode(), "size": [20, 30]},
            },
        ],
    )
    expected = np.zeros((20, 30), int)
    expected[:10, :10] = expected[:, 20:25] = 3
    expected[8:12, 8:20] = 90
    assert np.array_equal(Coco(path)(photo, "a.jpg"), expected)
    assert np.array_equal(Coco(path)(photo, "folder/b.jpg"), np.zeros((5, 6)))
    with pytest.raises(MaskError, match="no such image"):
        Coco(path)(photo, "c.jpg")


@pytest.mark.parametrize(
    "segmentation",
    [None, [], [[]], [["a"]], [[0, 0, 1]], [None], {}, {"counts": None, "size": [20, 30]}, 7]
    + [{"counts": [600], "size": [30, 20]}, {"counts": [6], "size": [2, 3]}],
    ids=str,
)
def test_a_malformed_object_is_a_failure_of_its_image_alone(tmp_path, photo, segmentation):
    bad = {"image_id": 7, "category_id": 3, "segmentation": segmentation}
    path = write_coco(tmp_path / "instances.json", [bad])
    with pytest.raises(MaskError, match=r"instances\.json: a\.jpg: no objects of COCO's kind"):
        Coco(path)(photo, "a.jpg")
    assert np.array_equal(Coco(path)(photo, "folder/b.jpg"), np.zeros((5, 6)))


def test_missing_or_other_annotations_are_refused_at_once(tmp_path):
    with pytest.raises(DataError, match=r"x\.json: No such file"):
        Coco(str(tmp_path / "x.json"))
    for text in ("{", "[]", '{"images": []}'):
        (tmp_path / f"{len(text)}.json").write_text(text)
        with pytest.raises(DataError, match="no COCO annotations"):
            Coco(str(tmp_path / f"{len(text)}.json"))
