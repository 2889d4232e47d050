import itertools
import json
import math

import numpy as np
import pytest

from data.boxes import overlaps
from data.correspondence import Correspondence
from data.listing import ImageList
from data.ragged import Ragged
from evaluation.pair_classes import Objects, PairScores, Shares, classify, read_objects, same_class_share
from utils.errors import DataError

NUM_IMAGES, K = 6, 3


def random_objects(rng: np.random.Generator) -> Objects:
    """Up to three objects of two classes, apart from each other."""
    count = int(rng.integers(4))
    return Objects(
        np.array([[40.0 * place, 5, 20, 20] for place in range(count)]).reshape(-1, 4), rng.integers(2, size=count)
    )


def random_boxes(rng: np.random.Generator) -> np.ndarray:
    """One to five boxes, some on an object's place and some between."""
    x = 40 * rng.integers(3, size=int(rng.integers(1, 6))) + rng.choice([0, 3, 15], size=1)
    return np.stack([x, np.full_like(x, 6), np.full_like(x, 18), np.full_like(x, 18)], axis=1).astype(np.uint16)


@pytest.fixture(scope="module")
def scenes() -> tuple[Correspondence, list[Objects]]:
    rng = np.random.default_rng(5)
    objects, boxes = ([draw(rng) for _ in range(NUM_IMAGES)] for draw in (random_objects, random_boxes))
    boxes[4] = boxes[4][:0]
    neighbours = np.array([rng.choice(NUM_IMAGES, K, replace=False) for _ in range(NUM_IMAGES)], dtype=np.int32)
    neighbours[1, 2] = -1
    pairs = []
    for image, other in itertools.product(range(NUM_IMAGES), range(K)):
        theirs = neighbours[image, other]
        some = len(boxes[image]) and theirs >= 0 and len(boxes[theirs])
        count = int(rng.integers(4)) if some else 0
        pairs.append([[*rng.choice(boxes[image]), *rng.choice(boxes[theirs])] for _ in range(count)])
    ragged = [Ragged.from_rows(rows, width=width, dtype=np.uint16) for rows, width in ((boxes, 4), (pairs, 8))]
    return Correspondence(ragged[0], neighbours, ragged[1]), objects


def slow_class(box: np.ndarray, objects: Objects) -> int | None:
    best, found = 0.5, None
    for place, category in zip(objects.boxes, objects.classes):
        overlap = overlaps(box[None], place)[0]
        if overlap >= best:
            best, found = overlap, int(category)
    return found


def weighted_shares(pairs: list[tuple[float, int | None, int | None]]) -> Shares:
    """Of (weight, class, class)."""
    both = sum(weight for weight, a, b in pairs if a is not None and b is not None)
    same = sum(weight for weight, a, b in pairs if a is not None and a == b)
    return Shares(both / sum(weight for weight, _, _ in pairs), same / both)


def rows_of(correspondence: Correspondence) -> list[tuple[int, int, np.ndarray]]:
    """(image, neighbour, pairs) where there are pairs."""
    places = itertools.product(range(NUM_IMAGES), range(K))
    rows = [(i, int(correspondence.neighbours[i, k]), correspondence.pairs_of(i, k)) for i, k in places]
    return [row for row in rows if len(row[2])]


def test_scores_of_matched_pairs_equal_a_loop_over_them(scenes):
    correspondence, objects = scenes
    pairs = [
        (1, slow_class(pair[:4], objects[image]), slow_class(pair[4:], objects[other]))
        for image, other, rows in rows_of(correspondence)
        for pair in rows
    ]
    scores = same_class_share(correspondence, objects).matched
    assert scores == pytest.approx(weighted_shares(pairs)) and 0 < scores.same_class < 1 and 0 < scores.objects < 1


def test_chance_among_neighbours_equals_the_mean_over_all_combinations_of_their_boxes(scenes):
    correspondence, objects = scenes
    pairs = []
    for image, other, rows in rows_of(correspondence):
        combinations = list(itertools.product(correspondence.boxes[image], correspondence.boxes[other]))
        share = len(rows) / len(combinations)
        pairs += [(share, slow_class(a, objects[image]), slow_class(b, objects[other])) for a, b in combinations]
    assert same_class_share(correspondence, objects).neighbours == pytest.approx(weighted_shares(pairs))


def test_chance_anywhere_equals_the_mean_over_any_two_boxes(scenes):
    correspondence, objects = scenes
    classes = [slow_class(box, objects[image]) for image, row in enumerate(correspondence.boxes) for box in row]
    pairs = [(1, a, b) for a, b in itertools.product(classes, classes)]
    assert same_class_share(correspondence, objects).anywhere == pytest.approx(weighted_shares(pairs))


def test_a_box_shows_the_object_that_it_overlaps_most_if_by_half():
    objects = Objects(np.array([[0, 0, 10, 10], [0, 0, 10, 9], [30, 0, 10, 10.0]]), np.array([4, 2, 7]))
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [30, 0, 10, 5], [30, 0, 10, 4], [60, 0, 9, 9]], dtype=np.uint16)
    assert classify(boxes, objects).tolist() == [4, 2, 7, -1, -1]
    assert classify(boxes[:0], objects).shape == (0,)


def test_without_pairs_or_objects_there_is_no_share():
    boxes = Ragged.from_rows([[[0, 0, 9, 9]]] * 2, width=4, dtype=np.uint16)
    pairs = Ragged.from_rows([[], []], width=8, dtype=np.uint16)
    none = Objects(np.empty((0, 4)), np.empty(0, dtype=np.int64))
    scores = same_class_share(Correspondence(boxes, np.array([[1], [0]], dtype=np.int32), pairs), [none, none])
    assert all(math.isnan(share) for shares in scores[:2] for share in shares)
    assert scores.anywhere.objects == 0 and math.isnan(scores.anywhere.same_class)


def test_scores_are_printed_a_line_each():
    text = str(PairScores(Shares(0.5, 0.25), Shares(0.125, 0.0625), Shares(1.0, math.nan)))
    first, second, third = text.splitlines()
    assert "50.0%" in first and "25.0%" in first and "12.5%" in second and "6.2%" in second and "nan" in third


@pytest.fixture
def annotations(tmp_path):
    content = {
        "images": [{"id": 9, "file_name": "b.jpg"}, {"id": 4, "file_name": "a.jpg"}, {"id": 5, "file_name": "c.jpg"}],
        "categories": [{"id": 70}, {"id": 3}],
        "annotations": [
            {"image_id": 9, "category_id": 70, "bbox": [1, 2, 3, 4.5]},
            {"image_id": 9, "category_id": 3, "bbox": [5, 6, 7, 8], "iscrowd": 0},
            {"image_id": 9, "category_id": 3, "bbox": [0, 0, 90, 90], "iscrowd": 1},
            {"image_id": 4, "category_id": 3, "bbox": [9, 9, 9, 9]},
        ],
    }
    path = tmp_path / "instances_train.json"
    path.write_text(json.dumps(content))
    return path


def listing(*names: str) -> ImageList:
    return ImageList(None, "train", np.array([name.encode() for name in names]))


def test_objects_are_read_in_the_listings_order_without_crowds(annotations):
    a, b, c = read_objects(annotations, listing("a.jpg", "folder/b.jpg", "c.jpg"))
    assert a.boxes.tolist() == [[9, 9, 9, 9]] and a.classes.tolist() == [0]
    assert b.boxes.tolist() == [[1, 2, 3, 4.5], [5, 6, 7, 8]] and b.classes.tolist() == [1, 0]
    assert c.boxes.shape == (0, 4) and c.classes.shape == (0,)


def test_annotations_that_cannot_be_used_are_refused(annotations):
    with pytest.raises(DataError, match=r"does not name 1 of 2 images, such as d\.jpg"):
        read_objects(annotations, listing("a.jpg", "d.jpg"))
    with pytest.raises(DataError, match="nowhere.json: No such file"):
        read_objects(annotations.with_name("nowhere.json"), listing("a.jpg"))
    for content in ("{", "[]", '{"images": []}'):
        annotations.write_text(content)
        with pytest.raises(DataError, match="no COCO annotations"):
            read_objects(annotations, listing("a.jpg"))
