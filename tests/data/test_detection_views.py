from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from data.detection_views import (
    Collate,
    LongSide,
    Placement,
    ShortSide,
    TrainViews,
    WholeViews,
    place_boxes,
    place_image,
    place_masks,
)
from data.object_sets import ObjectSet
from data.ragged import Ragged
from utils.errors import DataError

SHARES = ((0.1, 0.2, 0.5, 0.9), (0.0, 0.0, 1.0, 1.0), (0.6, 0.5, 0.9, 0.7))


def coordinates(height, width):
    """(H, W, 3) uint8, whose pixels say where they are: x, y, and 7."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.full_like(x, 7)], axis=-1).astype(np.uint8)


def boxes_of(height, width):
    return np.array(SHARES) * np.array([width, height, width, height])


def masks_of(boxes, height, width):
    """Each box filled, by the centres of its pixels."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = [(x > x0) & (x < x1) & (y > y0) & (y < y1) for x0, y0, x1, y1 in boxes]
    return np.stack(inside).astype(np.uint8)


def placements():
    rng = np.random.default_rng(0)
    return [
        ShortSide((40, 100), 150).place(rng, 60, 90, flip=False),
        ShortSide((100,), 120).place(rng, 90, 60, flip=True),
        *(LongSide(64, (0.5, 2.0), canvas=True).place(rng, 60, 90, flip=bool(n % 2)) for n in range(6)),
        *(LongSide(64, (1.2, 2.0), canvas=True).place(rng, 90, 60, flip=bool(n % 2)) for n in range(4)),
    ]


@pytest.mark.parametrize("placement", placements())
def test_boxes_and_masks_go_where_the_pixels_go(placement):
    height, width = (60, 90) if placement.size[0] <= placement.size[1] else (90, 60)
    image, boxes = coordinates(height, width), boxes_of(height, width)
    view = place_image(image, placement).float()
    placed = place_boxes(boxes, (height, width), placement)
    masks = place_masks(masks_of(boxes, height, width), placement)
    assert view.shape[1:] == masks.shape[1:]
    step = max(height / placement.size[0], 1)
    for before, after, mask in zip(boxes, placed, masks.bool()):
        x0, y0, x1, y1 = after
        y, x = torch.meshgrid(*(torch.arange(side) + 0.5 for side in mask.shape), indexing="ij")
        inside = (x > x0) & (x < x1) & (y > y0) & (y < y1)
        # What the pixels say of where they were agrees with the box, but for the pixels at its border.
        said = (view[0] + 0.5 > before[0] + step) & (view[0] + 0.5 < before[2] - step)
        said &= (view[1] + 0.5 > before[1] + step) & (view[1] + 0.5 < before[3] - step) & (view[2] == 7)
        assert not (said & ~inside).any() and not (said & ~mask).any()
        border = 1.01 * max(placement.size[0] / height, 1)
        core = (x > x0 + border) & (x < x1 - border) & (y > y0 + border) & (y < y1 - border)
        around = (x > x0 - border) & (x < x1 + border) & (y > y0 - border) & (y < y1 + border)
        assert not (core & ~mask).any() and not (mask & ~around).any()
        assert said.any() or not core.any()


def test_a_canvas_is_grey_where_the_image_does_not_reach_and_no_box_lies_there():
    placement = LongSide(64, (0.5, 0.5), canvas=True).place(np.random.default_rng(0), 60, 90, flip=False)
    assert placement == Placement((21, 32), 0, 0, 21, 32, False, (64, 64))
    view = place_image(coordinates(60, 90), placement)
    assert view.shape == (3, 64, 64) and (view[:, 21:] == 128).all() and (view[:, :, 32:] == 128).all()
    assert (view[2, :21, :32] == 7).all()
    assert place_boxes(boxes_of(60, 90), (60, 90), placement)[1].tolist() == [0, 0, 32, 21]


def test_the_shorter_side_is_chosen_and_the_longer_bounded():
    rng = np.random.default_rng(0)
    drawn = {ShortSide((40, 50), 1000).place(rng, 60, 90, flip=False).size for _ in range(20)}
    assert drawn == {(40, 60), (50, 75)}
    assert ShortSide((800,), 1333).place(rng, 200, 1000, flip=False).size == (267, 1333)


def test_jitter_stays_in_its_range_and_reaches_both_ends_of_the_image():
    rng = np.random.default_rng(0)
    drawn = [LongSide(100, (0.8, 1.25), canvas=True).place(rng, 50, 100, flip=False) for _ in range(200)]
    longer = [one.size[1] for one in drawn]
    assert 80 <= min(longer) < 85 and 120 < max(longer) <= 125
    assert max(one.left for one in drawn) > 20 and min(one.left for one in drawn) == 0
    assert all(one.left + one.width <= one.size[1] and one.top + one.height <= one.size[0] for one in drawn)


@pytest.fixture
def objects(tmp_path):
    """Three images: 60 x 90 with three objects, 90 x 60 with one, 60 x 90 without."""
    sizes = [(60, 90), (90, 60), (60, 90)]
    boxes = [boxes_of(60, 90), boxes_of(90, 60)[:1], np.zeros((0, 4))]
    for number, size in enumerate(sizes):
        Image.fromarray(coordinates(*size)).save(tmp_path / f"{number}.png")
    rows = [np.column_stack([own, np.arange(len(own)) + 1, np.zeros(len(own))]) for own in boxes]
    return ObjectSet(
        root=tmp_path,
        names=np.array([b"0.png", b"1.png", b"2.png"]),
        ids=np.array([10, 11, 12]),
        sizes=np.array(sizes),
        rows=Ragged.from_rows(rows, width=6, dtype=np.float64),
        classes=("a", "b", "c", "d"),
        read_masks=lambda index: (
            masks_of(boxes[index], *sizes[index]) if len(boxes[index]) else np.zeros((0, 60, 90), "u1")
        ),
    )


PLAIN = ShortSide((60,), 200)


def views(objects, *, sizing=PLAIN, flip=0.0):
    return TrainViews(objects, sizing=sizing, flip_probability=flip, masks=True, seed=0)


def test_an_item_depends_on_epoch_and_index_alone(objects):
    sizing = LongSide(64, (0.5, 2.0), canvas=True)
    one, other = views(objects, sizing=sizing, flip=0.5), views(objects, sizing=sizing, flip=0.5)
    other[(0, 1)]
    for key in ("image", "boxes", "labels", "masks"):
        assert torch.equal(one[(3, 0)][key], other[(3, 0)][key])
    assert not torch.equal(one[(3, 0)]["image"], one[(4, 0)]["image"])


def test_objects_that_the_view_cuts_away_are_left_out(objects):
    class UpperLeft:
        def place(self, rng, height, width, *, flip):
            return Placement((height, width), 0, 0, height // 2, width // 2, flip, None)

    item = views(objects, sizing=UpperLeft())[(0, 0)]
    assert item["labels"].tolist() == [1, 2] and item["masks"].shape == (2, 30, 45)
    assert torch.allclose(item["boxes"], torch.tensor([[9.0, 12, 45, 30], [0, 0, 45, 30]]))


def test_an_object_whose_mask_is_cut_away_is_left_out_though_its_box_is_not(objects):
    class LeftEdge:
        def place(self, rng, height, width, *, flip):
            return Placement((height, width), 0, 0, height, 5, flip, None)

    masks = objects.read_masks(0)
    masks[1, :, :10] = 0
    objects = replace(objects, read_masks=lambda index: masks)
    # The second object's box reaches the left edge, its mask does not; the others are elsewhere.
    assert views(objects, sizing=LeftEdge())[(0, 0)]["labels"].tolist() == []


def test_an_unreadable_image_is_replaced_with_its_objects(objects, tmp_path):
    (tmp_path / "0.png").write_bytes(b"")
    item = views(objects)[(0, 0)]
    assert set(item["unreadable"]) == {("0.png", "the file is empty")}
    assert len(item["labels"]) == {(60, 90): 0, (90, 60): 1}[tuple(item["image"].shape[1:])]


@pytest.mark.parametrize(
    "read", [lambda objects: views(objects)[(0, 0)], lambda o: WholeViews(o, sizing=ShortSide((60,), 99))[0]]
)
def test_an_image_of_another_size_than_its_annotation_is_refused(objects, tmp_path, read):
    Image.fromarray(coordinates(30, 45)).save(tmp_path / "0.png")
    with pytest.raises(DataError, match="0.png: 45 x 30 pixels, but its annotation says 90 x 60"):
        read(objects)


def test_a_batch_holds_every_image_at_its_top_left_in_the_mean_colour(objects):
    batch = Collate(divisor=32)([views(objects)[(0, index)] for index in range(3)])
    assert batch["images"].shape == (3, 3, 96, 96) and batch["sizes"] == [(60, 90), (90, 60), (60, 90)]
    assert torch.equal(batch["images"][1, :2, :90, :60], torch.from_numpy(coordinates(90, 60)).permute(2, 0, 1)[:2])
    assert batch["images"][0, :, 60:].unique().tolist() == [104, 116, 124]
    assert batch["counts"] == [3, 1, 0] and batch["boxes"].shape == (4, 4) and batch["labels"].tolist() == [1, 2, 3, 1]
    assert batch["masks"].shape == (4, 96, 96) and not batch["masks"][0, 60:].any()
    assert torch.equal(batch["masks"][3, :90, :60], torch.from_numpy(objects.masks(1)[0]))


def test_a_test_batch_says_which_images_it_holds_and_how_large_they_were(objects):
    dataset = WholeViews(objects, sizing=LongSide(45))
    batch = Collate(divisor=8)([dataset[index] for index in (2, 1)])
    assert batch["indices"] == [2, 1] and batch["originals"] == [(60, 90), (90, 60)]
    assert batch["sizes"] == [(30, 45), (45, 30)] and batch["images"].shape == (2, 3, 48, 48)
