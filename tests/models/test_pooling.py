import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

from models.pooling import align_masks, pool_regions, sample_labels, soft_masks
from models.regions import one_hot_regions
from tests.paths import REFERENCE


def load(name: str) -> dict[str, torch.Tensor]:
    with np.load(REFERENCE / name) as arrays:
        return {key: torch.as_tensor(arrays[key]) for key in arrays.files}


def test_soft_masks_match_the_release():
    reference = load("r2o_masks.npz")
    for side in (14, 56):
        masks = soft_masks(reference["label_map"], num_labels=100, size=(side, side))
        assert torch.equal(masks, reference[f"mask{side}"].flatten(2))


@pytest.mark.parametrize("side", [(9, 13), (48, 48), (31, 60)])
def test_soft_masks_equal_bilinear_resizing_of_one_hot_maps_at_any_size(side):
    labels = torch.randint(0, 5, (2, 31, 47))
    masks = soft_masks(labels, num_labels=5, size=side)
    slow = F.interpolate(F.one_hot(labels, 5).permute(0, 3, 1, 2).float(), size=side, mode="bilinear")
    assert torch.allclose(masks, slow.flatten(2), atol=1e-5)


def test_soft_masks_leave_out_labels_beyond_their_number():
    labels = torch.tensor([[[0, 1], [7, -1]]])
    assert soft_masks(labels, num_labels=2, size=(2, 2)).tolist() == [[[1, 0, 0, 0], [0, 1, 0, 0]]]


def test_pooled_features_match_the_release():
    reference = load("r2o_masks.npz")
    pooled = pool_regions(reference["feats"], reference["mask14"].flatten(2))
    assert torch.allclose(pooled, reference["pooled"], atol=1e-5)


def test_pooling_is_the_mean_over_a_mask():
    features, masks = torch.randn(2, 4, 3, 3), torch.zeros(2, 2, 9)
    masks[:, 0, [1, 5, 6]] = 1
    pooled = pool_regions(features, masks)
    assert torch.allclose(pooled[:, 0], features.flatten(2)[:, :, [1, 5, 6]].mean(-1), atol=1e-6)
    assert torch.equal(pooled[:, 1], torch.zeros(2, 4))


def test_aligned_masks_and_flips_match_the_release():
    reference = load("r2o_align.npz")
    masks = one_hot_regions(reference["label56"].long(), 7)
    for view in (0, 1):
        box, flip = reference["roi_t"][:, view, [1, 0, 3, 2]], reference["roi_t"][:, view, 4].bool()
        aligned = align_masks(masks, box, flip, size=(7, 7))
        assert (aligned - reference[f"aligned_{view + 1}"]).abs().max() < 1e-5
    assert reference["roi_t"][:, :2, 4].unique().tolist() == [0, 1]


def random_boxes(count: int) -> torch.Tensor:
    corners = torch.rand(count, 2, 2).sort(1).values
    # Boxes below a cell and on the border are where implementations differ.
    corners[0] = torch.tensor([[0.5, 0.5], [0.501, 0.502]])
    corners[1] = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    corners[2] = torch.tensor([[0.95, 0.0], [1.0, 0.3]])
    return corners.flatten(1)


@pytest.mark.parametrize("size", [(7, 7), (3, 5), (12, 12)])
def test_alignment_equals_torchvisions_roi_align_for_any_grid(size):
    masks, boxes = torch.rand(12, 3, 20, 28), random_boxes(12)
    scale = torch.tensor([28, 20, 28, 20])
    rois = torch.cat([torch.arange(12)[:, None], boxes * scale], dim=1)
    slow = roi_align(masks, rois, output_size=size, aligned=False, sampling_ratio=-1)
    aligned = align_masks(masks, boxes, torch.zeros(12, dtype=torch.bool), size=size)
    assert torch.allclose(aligned, slow.flatten(2), atol=1e-5)


def test_a_flipped_view_shows_the_mirrored_mask():
    masks, boxes = torch.rand(4, 2, 16, 16), random_boxes(4)
    plain = align_masks(masks, boxes, torch.zeros(4, dtype=torch.bool), size=(4, 4))
    flipped = align_masks(masks, boxes, torch.tensor([True, False, True, False]), size=(4, 4))
    assert torch.allclose(flipped[::2].unflatten(2, (4, 4)), plain[::2].unflatten(2, (4, 4)).flip(-1))
    assert torch.equal(flipped[1::2], plain[1::2])


def test_sampled_labels_are_those_at_the_cells_centres():
    labels = torch.arange(36).view(1, 6, 6)
    assert sample_labels(labels, size=(2, 3)).tolist() == [[[7, 9, 11], [25, 27, 29]]]
