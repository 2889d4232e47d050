import json
from copy import deepcopy

import numpy as np
import pytest

from data.listing import ImageList
from data.orl_export import write_correspondence, write_neighbours, write_proposals
from data.orl_files import read_all_proposals, read_correspondence, read_names, read_neighbours
from tests.data.test_correspondence import BOXES, NEIGHBOURS, PAIRS, as_lists, correspondence
from utils.errors import DataError

# As COCO has them: the annotation file's order is not the names' own.
FILE_NAMES = ["000000000391.jpg", "000000000025.jpg", "000000000309.jpg"]
IDS = [391, 25, 309]
# Places in the file.
KNN = [[1, 2], [2, 0], [0, 1]]
FILE_BOXES = [[[3, 9, 1, 1]], [[0, 0, 2, 5], [2, 5, 9, 8]], [[3, 0, 9, 9]]]
# The first two numbers tell the image and the neighbour, both by place in the file.
FILE_PAIRS = [[[[image, k, 1, 1, 2, 2, 2, 2]] * (image + 1) for k in knn] for image, knn in enumerate(KNN)]


@pytest.fixture
def images(tmp_path):
    return listing(tmp_path, sorted(FILE_NAMES))


def listing(root, names):
    return ImageList(root, "train", np.array([name.encode() for name in names]))


def published(**changed):
    """What coco_knn_image_retrieval.ipynb and generate_correspondence.py write."""
    annotations = {"image_id": IDS, "bbox": FILE_BOXES, "knn_image_id": KNN, "knn_bbox_pair": FILE_PAIRS}
    annotations |= {key: value for key, value in changed.items() if key in annotations}
    listed = {"file_name": changed.get("names", FILE_NAMES), "id": IDS}
    return deepcopy({"info": {"knn_image_num": 2}, "images": listed, "pseudo_annotations": annotations})


def annotation_file(names):
    """COCO's own, with what comes before and behind the images."""
    entries = [{"license": 3, "file_name": name, "id": int(name[:12])} for name in names]
    boxes = [{"segmentation": [[1.5, 2.5]], "image_id": 391, "bbox": [1, 2, 3, 4]}]
    return {"info": {"images": "none"}, "licenses": [{"id": 1}], "images": entries, "annotations": boxes}


def dump(path, content):
    path.write_text(json.dumps(content))
    return path


def test_names_are_read_from_annotation_files_and_from_published_files(tmp_path):
    assert read_names(dump(tmp_path / "coco.json", annotation_file(FILE_NAMES))) == FILE_NAMES
    assert read_names(dump(tmp_path / "knn.json", published())) == FILE_NAMES
    for content in (
        {"bbox": []},
        {"images": []},
        {"images": [{"id": 3}]},
        {"images": {"file_name": [3]}},
        {"images": 3},
    ):
        with pytest.raises(DataError, match=r"bad\.json: names no images; a COCO annotation file"):
            read_names(dump(tmp_path / "bad.json", content))


def test_neighbours_are_places_in_the_files_own_order(tmp_path, images):
    neighbours = read_neighbours(dump(tmp_path / "a.json", published()), images)
    assert neighbours.dtype == np.int32
    for place, name in enumerate(FILE_NAMES):
        ours = [images.name(index) for index in neighbours[sorted(FILE_NAMES).index(name)]]
        assert ours == [FILE_NAMES[k] for k in KNN[place]]


def test_a_published_correspondence_comes_into_our_order(tmp_path, images):
    content = read_correspondence(dump(tmp_path / "a.json", published()), images)
    for index in range(3):
        place = FILE_NAMES.index(images.name(index))
        assert content.boxes[index].tolist() == FILE_BOXES[place]
        for rank, neighbour in enumerate(content.neighbours[index]):
            k = FILE_NAMES.index(images.name(neighbour))
            assert content.pairs_of(index, rank).tolist() == [[place, k, 1, 1, 2, 2, 2, 2]] * (place + 1)


def test_neighbours_without_pairs_are_left_out_and_empty_lists_stay(tmp_path, images):
    pairs = [[row[0]] for row in FILE_PAIRS]
    pairs[1] = [[]]
    path = dump(tmp_path / "a.json", published(knn_bbox_pair=pairs, bbox=[FILE_BOXES[0], [], FILE_BOXES[2]]))
    content = read_correspondence(path, images)
    assert content.neighbours.shape == (3, 1) and np.array_equal(
        content.neighbours, read_neighbours(path, images)[:, :1]
    )
    assert content.pairs.lengths.tolist() == [0, 3, 1] and content.boxes.lengths.tolist() == [0, 1, 1]


def test_proposals_without_names_follow_the_annotation_file(tmp_path, images):
    # The published code drops the brackets around a single box.
    path = dump(tmp_path / "ss.json", {"bbox": [[3, 9, 1, 1], FILE_BOXES[1], []]})
    rows = read_all_proposals(path, images, names=FILE_NAMES)
    assert [row.tolist() for row in rows] == [FILE_BOXES[1], [], FILE_BOXES[0]]
    with pytest.raises(DataError, match=r"ss\.json: does not name its images; give the COCO annotation files"):
        read_all_proposals(path, images, names=None)


def test_the_two_files_of_coco_plus_follow_one_another(tmp_path, images):
    first, second = (
        dump(tmp_path / "a.json", {"bbox": FILE_BOXES[:2]}),
        dump(tmp_path / "b.json", {"bbox": FILE_BOXES[2:]}),
    )
    coco, other = (dump(tmp_path / f"{len(n)}.json", annotation_file(n)) for n in (FILE_NAMES[:2], FILE_NAMES[2:]))
    names = read_names(coco) + read_names(other)
    rows = read_all_proposals([first, second], images, names=names)
    assert [row.tolist() for row in rows] == [FILE_BOXES[1], FILE_BOXES[2], FILE_BOXES[0]]
    with pytest.raises(DataError, match=r"a\.json: proposals of 2 images where 3 are named"):
        read_all_proposals([first], images, names=names)
    with pytest.raises(DataError, match=r"a\.json: bbox has rows for 2 images where 1 are needed"):
        read_all_proposals([second, first], images, names=names[:2])


def test_own_names_that_differ_from_those_given_are_refused(tmp_path, images):
    path = tmp_path / "ours.json"
    write_proposals(path, images, BOXES, {})
    with pytest.raises(DataError, match=r"ours\.json: names other images"):
        read_all_proposals(path, images, names=FILE_NAMES)


def test_what_is_written_is_read_again_and_by_the_published_code(tmp_path, images):
    write_neighbours(tmp_path / "knn.json", images, np.array(NEIGHBOURS), {"made": "here"})
    write_proposals(tmp_path / "ss.json", images, iter(BOXES), {})
    write_correspondence(tmp_path / "all.json", images, correspondence(), {})
    assert read_neighbours(tmp_path / "knn.json", images).tolist() == NEIGHBOURS
    assert [row.tolist() for row in read_all_proposals(tmp_path / "ss.json", images, names=None)] == BOXES
    assert as_lists(read_correspondence(tmp_path / "all.json", images)) == (BOXES, NEIGHBOURS, PAIRS)
    # What coco_orl_json.py and coco_correspondence_json.py look up.
    knn, ss, content = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("knn", "ss", "all"))
    assert knn["info"] == {"made": "here", "knn_image_num": 2} and content["info"]["knn_image_num"] == 2
    assert ss["bbox"] == BOXES
    for file in (knn, content):
        assert file["images"] == {"file_name": sorted(FILE_NAMES), "id": sorted(IDS)}
        assert file["pseudo_annotations"]["image_id"] == sorted(IDS)
        assert file["pseudo_annotations"]["knn_image_id"] == NEIGHBOURS
    assert content["pseudo_annotations"]["bbox"] == BOXES
    assert content["pseudo_annotations"]["knn_bbox_pair"] == [PAIRS[0:2], PAIRS[2:4], PAIRS[4:6]]
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("names", [["a.jpg", "2.jpg"], ["x/1.jpg", "y/01.jpg"], ["caf\udce9.jpg", "1.jpg"]], ids=ascii)
def test_ids_are_places_where_names_are_no_different_numbers(tmp_path, names):
    images = ImageList(tmp_path, "train", np.array([name.encode("utf-8", "surrogateescape") for name in names]))
    write_neighbours(tmp_path / "a.json", images, np.array([[1], [0]]), {})
    assert json.loads((tmp_path / "a.json").read_text())["images"]["id"] == [0, 1]
    assert read_names(tmp_path / "a.json") == names and read_neighbours(tmp_path / "a.json", images).tolist() == [
        [1],
        [0],
    ]


def test_a_writer_that_fails_leaves_the_older_file(tmp_path, images):
    write_proposals(tmp_path / "a.json", images, BOXES, {})
    older = (tmp_path / "a.json").read_bytes()
    for boxes, message in ((BOXES[:2], "2 rows for 3 images"), ([[[1, 2, 3, -4]]] * 3, "-4 is no whole number")):
        with pytest.raises(ValueError, match=message):
            write_proposals(tmp_path / "a.json", images, boxes, {})
    assert (tmp_path / "a.json").read_bytes() == older and len(list(tmp_path.iterdir())) == 1


def test_names_match_by_relative_path_or_else_by_unique_file_name(tmp_path):
    path = dump(tmp_path / "a.json", published(names=["train2017/1.jpg", "b/2.jpg", "b/3.jpg"]))
    assert read_neighbours(path, listing(tmp_path, ["1.jpg", "b/2.jpg", "b/3.jpg"])).tolist() == KNN
    assert read_neighbours(path, listing(tmp_path, ["x/1.jpg", "y/2.jpg", "z/3.jpg"])).tolist() == KNN
    with pytest.raises(
        DataError, match=r"1 of its 3 images are not in .*, or several there have that name, such as train2017/1"
    ):
        read_neighbours(path, listing(tmp_path, ["b/2.jpg", "b/3.jpg", "x/1.jpg", "y/1.jpg"]))


@pytest.mark.parametrize(
    "ours, message",
    [
        (FILE_NAMES[:2], rf"a\.json: 1 of its 3 images are not in .*, such as {FILE_NAMES[2]}; .*data\.subset"),
        ([*FILE_NAMES, "new.jpg", "newer.jpg"], r"a\.json: 2 of the 5 images in .* are not in it, such as new\.jpg; "),
    ],
)
def test_other_images_than_the_listings_are_named(tmp_path, ours, message):
    path = dump(tmp_path / "a.json", published())
    for read in (read_neighbours, read_correspondence):
        with pytest.raises(DataError, match=message):
            read(path, listing(tmp_path, sorted(ours)))
    with pytest.raises(DataError, match=r"a\.json: 1 images are named twice, such as 2\.jpg"):
        read_neighbours(
            dump(path, published(names=["1.jpg", "2.jpg", "x/2.jpg"])), listing(tmp_path, ["1.jpg", "2.jpg"])
        )


@pytest.mark.parametrize(
    "key, row, message",
    [
        ("knn_image_id", [3, 0], "neighbour 3 of 3 images; they are places in the file's own list"),
        ("knn_image_id", [-2, 0], "neighbour -2 of 3 images"),
        ("knn_image_id", [1], r"knn_image_id: row 1: \[1\] where 2 neighbours are needed"),
        ("knn_image_id", [1, 0.5], "knn_image_id: 0.5 is no whole number"),
        ("bbox", [[1, 2, 3]], r"bbox: row 1: shape \(1, 3\) where rows of 4"),
        ("bbox", [[1, 2, 3, 4], [1, 2]], "bbox: row 1: no rows of 4 numbers"),
        ("bbox", [[1, 2, 3, 65536]], "bbox: row 1: 65536 is no whole number from 0 to 65535"),
        ("bbox", [[1, 2, 3, 4.5]], "bbox: row 1: 4.5 is no whole number"),
        ("bbox", [[1, 2, 3, -4]], "bbox: row 1: -4 is no whole number"),
        ("bbox", None, "bbox: row 1: "),
        ("knn_bbox_pair", [[], [[1, 2, 3, 4]]], r"knn_bbox_pair: image 1: row 3: shape \(1, 4\) where rows of 8"),
        ("knn_bbox_pair", [[[1, 2, 3, 4, 5, 6, 7, -8]], []], "knn_bbox_pair: image 1: row 2: -8 is no whole number"),
        ("knn_bbox_pair", [[]], "knn_bbox_pair: image 1: pairs with 1 neighbours, and with 2 in the first"),
    ],
)
def test_wrong_numbers_are_named_with_file_and_row(tmp_path, images, key, row, message):
    content = published()
    content["pseudo_annotations"][key] = [
        content["pseudo_annotations"][key][0],
        row,
        content["pseudo_annotations"][key][2],
    ]
    with pytest.raises(DataError, match=rf"a\.json: .*{message}.*again"):
        read_correspondence(dump(tmp_path / "a.json", content), images)


def test_more_ranks_of_pairs_than_neighbours_are_refused(tmp_path, images):
    with pytest.raises(DataError, match=r"a\.json: pairs with 2 neighbours, but 1 neighbours"):
        read_correspondence(dump(tmp_path / "a.json", published(knn_image_id=[[1], [2], [0]])), images)


@pytest.mark.parametrize("key", ["bbox", "knn_image_id", "knn_bbox_pair"])
def test_a_part_of_a_file_is_told_from_the_whole(tmp_path, images, key):
    content = published()
    del content["pseudo_annotations"][key][2:]
    with pytest.raises(DataError, match=rf"{key} has rows for 2 images where 3 are needed; .*merge them first"):
        read_correspondence(dump(tmp_path / "a.json", content), images)


@pytest.mark.parametrize("key", ["bbox", "knn_image_id", "knn_bbox_pair"])
def test_a_file_without_what_is_asked_for_is_told(tmp_path, images, key):
    content = published()
    del content["pseudo_annotations"][key]
    with pytest.raises(DataError, match=rf"{key} has rows for 0 images where 3 are needed"):
        read_correspondence(dump(tmp_path / "a.json", content), images)
