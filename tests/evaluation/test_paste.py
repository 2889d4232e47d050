import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from evaluation.paste import paste_masks


def paste(masks, boxes, *, height=20, width=30):
    runs = paste_masks(
        torch.from_numpy(np.array(masks)).float(), torch.tensor(boxes).double(), height=height, width=width
    )
    assert all(one["size"] == [height, width] and isinstance(one["counts"], str) for one in runs)
    return [coco_mask.decode(one) for one in runs]


def test_a_full_mask_fills_its_box_and_an_empty_one_nothing():
    full, none = paste([np.ones((28, 28)), np.zeros((28, 28))], [[3, 4, 13, 12]] * 2)
    expected = np.zeros((20, 30), np.uint8)
    expected[4:12, 3:13] = 1
    assert np.array_equal(full, expected) and none.sum() == 0


def test_a_mask_lies_in_its_box_the_right_way_round():
    quarter = np.zeros((28, 28))
    quarter[:14, 14:] = 1
    (found,) = paste([quarter], [[2, 2, 22, 12]])
    expected = np.zeros((20, 30), np.uint8)
    expected[2:7, 12:22] = 1
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("box", [[-10, -8, 10, 8], [25, 15, 45, 31], [-50, 2, -40, 9], [40, 2, 50, 9]])
def test_what_lies_outside_the_image_is_cut_away(box):
    (found,) = paste([np.ones((14, 14))], [box])
    expected = np.zeros((20, 30), np.uint8)
    expected[max(box[1], 0) : max(box[3], 0), max(box[0], 0) : max(box[2], 0)] = 1
    assert np.array_equal(found, expected)


def test_between_cells_the_mask_is_what_they_say_in_the_middle():
    slope = np.tile(np.linspace(0, 1, 28), (28, 1))
    (found,) = paste([slope], [[0, 0, 28, 20]], width=28)
    assert found[10].tolist() == [0] * 14 + [1] * 14
    (half,) = paste([slope], [[0, 0, 14, 20]], width=28)
    assert half[10].tolist() == [0] * 7 + [1] * 7 + [0] * 14


def test_no_detection_gives_no_mask():
    assert paste(np.zeros((0, 28, 28)), np.zeros((0, 4))) == []
