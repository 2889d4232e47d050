import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data.geometry import Crop, cut_image
from models.windows import inside, map_spans, neighbourhoods, pool_windows, window_spans
from tests.models.published import crop_boxes, load_reference

# Windows and strides of the release, in pixels of a 224 px view.
SIDE, WINDOWS = 224, {"c4": {"size": 48, "stride": 32}, "c3": {"size": 32, "stride": 24}}
BOTH_FLIPS = list(itertools.product([False, True], repeat=2))


@pytest.fixture(scope="module")
def anchors() -> dict[str, torch.Tensor]:
    return load_reference("resim_anchors.npz")


@pytest.fixture(scope="module")
def prroi() -> dict[str, torch.Tensor]:
    return load_reference("resim_prroi.npz")


def as_boxes(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """(B, n, 2) spans of either axis -> (B, n * n, 4) boxes (x0, y0, x1, y1), row by row."""
    down, across = torch.broadcast_tensors(rows[:, :, None], columns[:, None])
    return torch.stack([across[..., 0], down[..., 0], across[..., 1], down[..., 1]], dim=-1).flatten(1, 2)


def random_boxes(*shape: int, smallest: float) -> torch.Tensor:
    """(*shape, 4) boxes inside the image, in float64."""
    sizes = smallest + (1 - smallest) * torch.rand(*shape, 2, dtype=torch.float64)
    corners = (1 - sizes) * torch.rand_like(sizes)
    return torch.cat([corners, corners + sizes], dim=-1)


@pytest.mark.parametrize("level", WINDOWS)
def test_windows_lie_where_the_release_has_them_in_both_views(anchors, level):
    boxes = crop_boxes(anchors)
    spans = window_spans(SIDE, **WINDOWS[level])
    assert torch.equal((as_boxes(spans[None], spans[None]) * SIDE).double()[0], anchors[f"{level}_anchors_q"][0])
    rows, columns = map_spans(spans, boxes, torch.zeros(len(boxes), 2, dtype=torch.bool))
    shown = (inside(rows)[:, :, None] & inside(columns)[:, None]).flatten(1)
    assert torch.equal(shown, anchors[f"{level}_labels"] == 0)
    # Those that the second view does not show have a place of their own in the release.
    ours, theirs = as_boxes(rows, columns)[shown] * SIDE, anchors[f"{level}_anchors_k"][shown]
    assert (ours.double() - theirs).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("side", "size", "stride"), [(224, 48, 32), (224, 32, 24), (48, 12, 6), (97, 31, 7), (9, 8, 3)]
)
def test_windows_of_any_view_are_those_that_end_before_it_does(side, size, stride):
    by_hand, start = [], 0
    while start + size < side:
        by_hand.append([start / side, (start + size) / side])
        start += stride
    for dtype in (torch.float32, torch.float64):
        spans = window_spans(side, size=size, stride=stride, dtype=dtype)
        assert torch.equal(spans, torch.tensor(by_hand, dtype=dtype))


@pytest.mark.parametrize("size", [32, 33])
def test_windows_that_do_not_slide_are_refused(size):
    with pytest.raises(ValueError, match=f"windows of {size} px .* view of 32 px"):
        window_spans(32, size=size, stride=8)


def test_mapped_spans_equal_a_loop_over_windows_that_turns_mirrored_views_first():
    torch.manual_seed(0)
    boxes = random_boxes(4, 2, smallest=0.3)
    flips = torch.tensor(BOTH_FLIPS)
    spans = window_spans(80, size=20, stride=15, dtype=torch.float64)
    rows, columns = map_spans(spans, boxes, flips)
    for image, window in itertools.product(range(4), range(len(spans))):
        for axis, mapped in ((0, columns), (1, rows)):
            (first, second), (low, high) = boxes[image].tolist(), spans[window].tolist()
            first_mirrored, second_mirrored = (flips[image] & (axis == 0)).tolist()
            if first_mirrored:
                low, high = 1 - high, 1 - low
            low, high = (first[axis] + end * (first[axis + 2] - first[axis]) for end in (low, high))
            low, high = ((end - second[axis]) / (second[axis + 2] - second[axis]) for end in (low, high))
            if second_mirrored:
                low, high = 1 - high, 1 - low
            assert mapped[image, window].tolist() == pytest.approx([low, high], abs=1e-12)


@pytest.mark.parametrize(
    ("start", "end", "shown"), [(0, 0.5, True), (-1e-6, 0.5, False), (0.5, 1, False), (2, 3, False)]
)
def test_a_span_is_inside_from_the_first_pixel_to_before_the_last(start, end, shown):
    assert inside(torch.tensor([[start, end]])).tolist() == [shown]


@pytest.mark.parametrize("flips", BOTH_FLIPS)
def test_a_window_shows_the_same_place_of_the_image_in_both_views(flips):
    torch.manual_seed(1)
    B, h, w = 20, 9, 13
    boxes = random_boxes(B, 2, smallest=0.4)
    spans = window_spans(101, size=23, stride=17, dtype=torch.float64)

    def places(view: int) -> torch.Tensor:
        """(B, 2, h + 1, w + 1) features that say which x and y of the image they see, borders included."""
        x0, y0, x1, y1 = (edge[:, None, None] for edge in boxes[:, view].unbind(-1))
        down, across = torch.linspace(0, 1, h + 1)[:, None].double(), torch.linspace(0, 1, w + 1).double()
        across = 1 - across if flips[view] else across
        return torch.stack(torch.broadcast_tensors(x0 + across * (x1 - x0), y0 + down * (y1 - y0)), dim=1)

    rows, columns = map_spans(spans, boxes, torch.tensor([flips] * B))
    shown = (inside(rows)[:, :, None] & inside(columns)[:, None]).flatten(1)
    in_first = pool_windows(places(0), spans[None] * h, spans[None] * w)
    in_second = pool_windows(places(1), rows * h, columns * w)
    assert 50 < shown.sum() < shown.numel()
    assert torch.allclose(in_first[shown], in_second[shown], atol=1e-12)


@pytest.mark.parametrize("flips", BOTH_FLIPS)
def test_a_window_shows_the_same_pixels_in_views_that_the_data_path_cut(flips):
    across, down = np.meshgrid(np.arange(251), np.arange(199))
    image = np.stack([across, down, down], axis=-1).astype(np.uint8)
    boxes = ((20 / 251, 13 / 199, 180 / 251, 190 / 199), (60 / 251, 31 / 199, 240 / 251, 120 / 199))
    first, second = (cut_image(image, Crop(box, flip), size=111)[None, :2].float() for box, flip in zip(boxes, flips))
    spans = window_spans(111, size=20, stride=13)
    rows, columns = map_spans(spans, torch.tensor([boxes]), torch.tensor([flips]))
    # A pixel's value stands at its centre. Beyond those of the outermost pixels the interpolation falls to zero.
    *queries, rows, columns = (axis * 111 - 0.5 for axis in (spans[None], spans[None], rows, columns))
    down_shown, across_shown = ((axis[0] >= 0).all(1) & (axis[0] <= 110).all(1) for axis in (rows, columns))
    shown = down_shown[:, None] & across_shown
    shown[0] = shown[:, 0] = False
    in_first, in_second = pool_windows(first, *queries)[0], pool_windows(second, rows, columns)[0]
    assert shown.sum() >= 12
    # Views hold whole numbers, and their windows' means more than a hundred of them.
    assert (in_first - in_second)[shown.flatten()].abs().max() < 0.15


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", WINDOWS)
def test_pooling_and_its_gradient_equal_precise_roi_pooling(prroi, level, precision):
    features = prroi[f"{level}_feats"].to(precision).requires_grad_()
    image, corners = prroi[f"{level}_rois"].to(precision).split([1, 4], dim=1)
    cells = (corners * prroi[f"{level}_spatial_scale"]).to(precision)
    pooled = pool_windows(features[image[:, 0].long()], cells[:, None, 1::2], cells[:, None, ::2])
    assert pooled.dtype == precision and pooled.shape == (189, 1, 6)
    tolerance = 1e-6 if precision == torch.float32 else 1e-12
    assert torch.allclose(pooled[:, 0].double(), prroi[f"{level}_out_exact64"], rtol=0, atol=tolerance)
    assert torch.allclose(pooled[:, 0].float(), prroi[f"{level}_out_kernel32"], rtol=0, atol=1e-6)
    (gradient,) = torch.autograd.grad(pooled[:, 0], features, prroi[f"{level}_grad_out"].to(precision))
    # These were stored in float32; the largest is 7.
    assert torch.allclose(gradient.float(), prroi[f"{level}_grad_feats_exact64"], rtol=0, atol=2e-6)


def test_windows_are_rows_times_columns_of_each_image_and_spans_may_be_shared():
    torch.manual_seed(0)
    features = torch.randn(2, 3, 6, 5)
    rows, columns = torch.rand(2, 4, 2).sort(-1).values * 6, torch.rand(2, 3, 2).sort(-1).values * 5
    together = pool_windows(features, rows, columns)
    assert together.shape == (2, 12, 3)
    for n, r, c in itertools.product(range(2), range(4), range(3)):
        alone = pool_windows(features[[n]], rows[[n]][:, [r]], columns[[n]][:, [c]])
        assert torch.allclose(together[n, 3 * r + c], alone[0, 0], atol=1e-6)
    shared = pool_windows(features, rows[:1], columns[1:])
    assert torch.equal(shared, pool_windows(features, rows[[0, 0]], columns[[1, 1]]))


@pytest.mark.parametrize("span", [(2.0, 2.0), (3.0, 1.0), (-5.0, -2.0), (6.0, 9.0)])
def test_empty_inverted_and_outside_windows_give_zero_and_finite_gradients(span):
    features = torch.randn(1, 2, 5, 5, requires_grad=True)
    odd, whole = torch.tensor([[span]]), torch.tensor([[(0.0, 4.0)]])
    for rows, columns in ((odd, whole), (whole, odd)):
        pooled = pool_windows(features, rows, columns)
        pooled.sum().backward()
        assert torch.equal(pooled, torch.zeros(1, 1, 2)) and not features.grad.any()


def test_half_precision_features_are_pooled_in_float32_under_autocast():
    torch.manual_seed(0)
    features = torch.randn(2, 3, 7, 7).bfloat16().requires_grad_()
    spans = torch.tensor([[(0.3, 2.9), (1.1, 6.3)]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled, means = pool_windows(features, spans, spans), neighbourhoods(features)
    assert torch.equal(pooled, pool_windows(features.float(), spans, spans))
    assert torch.equal(means, neighbourhoods(features.float()))
    assert pooled.dtype == means.dtype == torch.float32
    pooled.sum().backward()
    assert features.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("size", [1, 3])
def test_neighbourhoods_are_means_of_all_patches_place_by_place(size):
    torch.manual_seed(0)
    features = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    patches = F.unfold(features, size).unflatten(1, (3, -1)).mean(2).transpose(1, 2).flatten(0, 1)
    assert torch.allclose(neighbourhoods(features, size=size), patches)
