"""Regions x features: label maps and boxes become pooling weights over a feature grid."""

import torch
from torch import Tensor


def soft_masks(labels: Tensor, *, num_labels: int, size: tuple[int, int]) -> Tensor:
    """Share of each grid cell that each label has, by bilinear sampling of the one-hot label map.

    Args:
        labels: (N, H, W) integer ids; those outside [0, num_labels) belong to no mask.
        num_labels: M, number of masks to make.
        size: (h, w) of the grid.
    Returns:
        (N, M, h * w) float32; each cell's values sum to at most 1. At 224 -> 14 or 56 they are multiples of a quarter.
    Source: equals `interpolate(one_hot(labels), size, mode="bilinear")` of the released to_binary_mask, by scattering the four
    pixels that a cell reads instead of resizing M images.
    """
    N, H, W = labels.shape
    masks = torch.zeros(N, num_labels + 1, size[0] * size[1], device=labels.device)
    rows, columns = _bilinear_taps(H, size[0], labels.device), _bilinear_taps(W, size[1], labels.device)
    for y, weight_y in rows:
        for x, weight_x in columns:
            ids = labels[:, y[:, None], x[None, :]].flatten(1).long()
            # One row more than there are labels takes the ids that belong to no mask.
            ids = torch.where((ids >= 0) & (ids < num_labels), ids, num_labels)
            weight = (weight_y[:, None] * weight_x[None, :]).flatten().expand(N, 1, -1)
            masks.scatter_add_(1, ids[:, None], weight)
    return masks[:, :num_labels]


def _bilinear_taps(length: int, size: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """The two source positions of each target cell along one axis, each with its weight."""
    position = ((torch.arange(size, device=device) + 0.5) * (length / size) - 0.5).clamp(min=0)
    low = position.long().clamp(max=length - 1)
    high = (low + 1).clamp(max=length - 1)
    fraction = (position - low).clamp(max=1)
    return [(low, 1 - fraction), (high, fraction)]


def sample_labels(labels: Tensor, *, size: tuple[int, int]) -> Tensor:
    """(N, H, W) ids -> (N, h, w): the id at each cell's centre."""
    H, W = labels.shape[-2:]
    y = ((torch.arange(size[0], device=labels.device) + 0.5) * (H / size[0])).long()
    x = ((torch.arange(size[1], device=labels.device) + 0.5) * (W / size[1])).long()
    return labels[:, y[:, None], x[None, :]]


def majority_labels(labels: Tensor, *, num_labels: int, size: tuple[int, int]) -> Tensor:
    """The id that most pixels of each grid cell have.

    Args:
        labels: (N, H, W) uint8, int32 or int64 ids in [0, num_labels).
        num_labels: how many ids there may be; known on the host, so that a GPU need not be asked.
        size: (h, w) of the grid, of any ratio to (H, W): the cells are those of adaptive average pooling, which overlap
            where one does not divide the other.
    Returns:
        (N, h * w) int64; ties go to the lowest id.
    Source: equals the argmax over ids of AdaptiveAvgPool2d of the one-hot map, as in the released convert_binary_mask, without
    the one-hot map. Differs: ids of 256 and more keep their number instead of becoming 0.
    """
    pixels = _pixels_of_cells(labels, size=size, padding=num_labels)
    # A table of counts is the faster way until it outgrows the pixels it is made from; this also bounds its memory.
    if num_labels <= 8 * pixels.shape[1]:
        counts = torch.zeros(len(pixels), num_labels + 1, dtype=torch.int32, device=labels.device)
        counts.scatter_add_(1, pixels.long(), torch.ones((), dtype=torch.int32, device=labels.device).expand_as(pixels))
        return counts[:, :num_labels].argmax(1).view(len(labels), -1)
    ordered = pixels.int().sort(1).values
    place = torch.arange(pixels.shape[1], dtype=torch.int32, device=labels.device)
    run_start = torch.where(_starts_run(ordered), place, 0).cummax(1).values
    run_length = torch.where(ordered < num_labels, place - run_start, -1)
    return ordered.gather(1, run_length.argmax(1, keepdim=True)).long().view(len(labels), -1)


def _pixels_of_cells(labels: Tensor, *, size: tuple[int, int], padding: int) -> Tensor:
    """(N, H, W) -> (N * h * w, K) ids of the pixels of each cell, filled up with `padding` where cells differ in size."""
    N, H, W = labels.shape
    if H % size[0] == W % size[1] == 0:
        pixels = labels.reshape(N, size[0], H // size[0], size[1], W // size[1]).transpose(2, 3)
        return pixels.flatten(3).flatten(0, 2)
    y, y_inside = _window(H, size[0], labels.device)
    x, x_inside = _window(W, size[1], labels.device)
    pixels = labels.index_select(1, y.flatten()).index_select(2, x.flatten()).int()
    # (N, h * ky, w * kx) -> (N, h, w, ky, kx).
    pixels = pixels.view(N, *y.shape, *x.shape).transpose(2, 3)
    inside = y_inside[:, None, :, None] & x_inside[None, :, None, :]
    return torch.where(inside, pixels, padding).flatten(3).flatten(0, 2)


def _window(length: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions (size, k) that each cell of adaptive pooling covers along an axis, and whether they are in the cell."""
    cell = torch.arange(size, device=device)[:, None]
    longest = -(-length // size) + (length % size > 0)
    position = cell * length // size + torch.arange(longest, device=device)
    return position.clamp(max=length - 1), position < ((cell + 1) * length + size - 1) // size


def _starts_run(ordered: Tensor) -> Tensor:
    """(N, K) sorted rows -> (N, K) bool, whether a value is the first of its kind."""
    return torch.cat([torch.ones_like(ordered[:, :1], dtype=torch.bool), ordered[:, 1:] != ordered[:, :-1]], dim=1)


def count_distinct(cells: Tensor) -> Tensor:
    """(N, P) ids -> (N,) int64, how many different ones a row has."""
    return _starts_run(cells.sort(1).values).sum(1)


def sample_regions(cells: Tensor, uniforms: Tensor) -> Tensor:
    """Regions drawn with replacement, each region of an image as likely as any other, however small.

    Args:
        cells: (N, P) int64 ids of an image's cells.
        uniforms: (N, M) random numbers in [0, 1).
    Returns:
        (N, M) int64 ids, all among the row's `cells`.
    Source: DetCon samples masks from those present; agrees with the released sample_masks in distribution.
    """
    ordered = cells.sort(1).values
    rank = _starts_run(ordered).cumsum(1) - 1
    count = rank[:, -1:] + 1
    # Rounding must not reach past the last id.
    drawn = (uniforms * count).long().minimum(count - 1)
    return ordered.gather(1, torch.searchsorted(rank, drawn))


def sample_distinct_regions(cells: Tensor, uniforms: Tensor, *, count: int) -> Tensor:
    """Regions drawn without replacement where there are enough of them, else with replacement.

    Args:
        cells: (N, P) int64 ids of an image's cells.
        uniforms: (N, U) random numbers in [0, 1), at least as many as there are cells, and as `count`.
        count: M, regions to draw.
    Returns:
        (N, M) int64 ids, all among the row's `cells`. In a row of M different ids or more, all differ, and every set and order
        of them is as likely as any other; in other rows they are those of `sample_regions`.
    Source: agrees in distribution with sample_masks of CYBORGS' release where there are enough. Differs: where there are not,
    the release fills up with ids that the view does not show.
    """
    P = cells.shape[1]
    assert uniforms.shape[1] >= max(count, P), "there is a random number for every cell and every draw"
    repeated = sample_regions(cells, uniforms[:, :count])
    if count > P:
        return repeated
    ordered = cells.sort(1).values
    first = _starts_run(ordered)
    # Each region's number stands at its first cell, every other cell's is below all of them: the largest decide.
    chosen = torch.where(first, uniforms[:, :P], -1.0).topk(count, dim=1).indices
    enough = first.sum(1, keepdim=True) >= count
    return torch.where(enough, ordered.gather(1, chosen), repeated)


def region_masks(cells: Tensor, ids: Tensor) -> Tensor:
    """(N, P) ids of cells and (N, M) regions -> (N, M, P) float32, one where a cell is the region's, for `pool_regions`."""
    return (cells[:, None] == ids[..., None]).float()


def pool_regions(features: Tensor, masks: Tensor) -> Tensor:
    """Mean feature of each region.

    Args:
        features: (N, D, h, w); gradients flow here.
        masks: (N, M, h * w) pooling masks, >= 0.
    Returns:
        (N, M, D). A mask's weights sum to one where it covers a cell or more; smaller masks keep their area as weight, and
        empty ones give zero.
    Source: DetCon, equation 1; the divisor is at least one cell, as in DeepMind's and the released code.
    """
    weights = masks / masks.sum(-1, keepdim=True).clamp(min=1.0)
    return weights.to(features.dtype) @ features.flatten(2).transpose(1, 2)


def align_masks(masks: Tensor, boxes: Tensor, flips: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Masks of the whole image as a view shows them: cropped to its box, flipped where it is, averaged onto its grid.

    Args:
        masks: (N, M, H, W) masks over the whole image.
        boxes: (N, 4) view boxes (x0, y0, x1, y1) in [0, 1].
        flips: (N,) bool, whether the view is mirrored left to right.
        size: (h, w) of the view's grid.
    Returns:
        (N, M, h * w), in the boxes' type.
    Source: equals torchvision's roi_align (aligned=False, adaptive sampling) followed by the flip, as released. RoIAlign is
    separable, so it is two small matrix products an image, differentiable and the same on every device.
    """
    H, W = masks.shape[-2:]
    rows = roi_align_weights(boxes[:, 1] * H, boxes[:, 3] * H, length=H, size=size[0])
    columns = roi_align_weights(boxes[:, 0] * W, boxes[:, 2] * W, length=W, size=size[1])
    columns = torch.where(flips[:, None, None], columns.flip(1), columns)
    # (N, M, H, W) x (N, W, w) -> (N, M, H, w), then (N, h, H) x that -> (N, M, h, w).
    across = masks.flatten(1, 2).to(columns.dtype) @ columns.transpose(1, 2)
    across = across.unflatten(1, masks.shape[1:3])
    return (rows[:, None] @ across).flatten(2)


def roi_align_weights(start: Tensor, end: Tensor, *, length: int, size: int) -> Tensor:
    """RoIAlign along one axis as a matrix.

    Args:
        start, end: (N,) box borders in cells, before RoIAlign's alignment (aligned=False: cell k's centre lies at k).
        length: cells of the input axis.
        size: cells of the output axis.
    Returns:
        (N, size, length); row i averages the adaptive number of bilinear samples of bin i.
    Source: Mask R-CNN, section 3, in torchvision's version: a box is at least one cell long, a bin takes
    ceil(box / size) samples, samples more than a cell outside count as zero.
    """
    extent = (end - start).clamp(min=1.0)
    count = (extent / size).ceil()
    samples = torch.arange(-(-length // size) + 1, device=start.device)
    bins = torch.arange(size, device=start.device)
    inside_bin = (samples[None] + 0.5) / count[:, None]
    position = start[:, None, None] + (bins[None, :, None] + inside_bin[:, None]) * (extent / size)[:, None, None]
    counted = (samples[None] < count[:, None])[:, None] & (position >= -1.0) & (position <= length)
    cells = torch.arange(length, device=start.device)
    hat = (1 - (position.clamp(0, length - 1)[..., None] - cells).abs()).clamp(min=0)
    return (hat * counted[..., None]).sum(2) / count[:, None, None]
