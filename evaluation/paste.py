"""From the small masks that a detector gives over its boxes to masks of the whole image."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor


def paste_masks(masks: Tensor, boxes: Tensor, *, height: int, width: int, threshold: float = 0.5) -> list[dict]:
    """Lay each mask over its box.

    Args:
        masks: (n, M, M) in [0, 1], over the box.
        boxes: (n, 4) pixels of the image.
    Returns:
        n compressed run lengths as COCO's JSON has them: {"size": [H, W], "counts": str}. A pixel is in, where the mask at its
        centre, bilinear between cells, reaches the threshold; what lies outside the box is 0.
    Source: detectron2, paste_masks_in_image.
    """
    pasted = []
    for mask, (x0, y0, x1, y1) in zip(masks.float(), boxes.tolist()):
        whole = np.zeros((height, width), np.uint8, order="F")
        left, right = max(math.floor(x0), 0), min(math.ceil(x1), width)
        top, bottom = max(math.floor(y0), 0), min(math.ceil(y1), height)
        if left < right and top < bottom:
            x = _places(left, right, x0, x1)
            y = _places(top, bottom, y0, y1)
            grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
            values = F.grid_sample(mask[None, None], grid, mode="bilinear", align_corners=False)[0, 0]
            whole[top:bottom, left:right] = (values >= threshold).numpy()
        runs = coco_mask.encode(whole)
        pasted.append({"size": [height, width], "counts": runs["counts"].decode("ascii")})
    return pasted


def _places(first: int, end: int, low: float, high: float) -> Tensor:
    """Where the centres of the pixels [first, end) lie in [low, high], from -1 to 1."""
    centres = torch.arange(first, end, dtype=torch.float32) + 0.5
    return (centres - low) / max(high - low, 1e-6) * 2 - 1
