"""Detectors of a few channels."""

from types import SimpleNamespace

import torch

from models.backbone import Trunk, make_trunk
from models.detectors import Detector, make_detector

FPN = {
    "detector": "fpn",
    "masks": True,
    "fpn_channels": 8,
    "fpn_norm": True,
    "box_head": "2fc",
    "head_norm": True,
    "head_width": 12,
    "conv_width": 8,
    "anchor_sizes": [[8], [12], [16], [24], [32]],
    "anchor_ratios": [0.5, 1.0, 2.0],
    "proposals_train": (40, 20),
    "proposals_test": (40, 10),
    "sampled_boxes": 16,
    "pool_size": 5,
    "pool_cells": 5,
    "score_threshold": 0.0,
    "detections_per_image": 5,
}
C4 = FPN | {"detector": "c4", "masks": False, "anchor_sizes": [[8, 16, 32]]}
KINDS = {
    "fpn, 2fc": FPN,
    "fpn, 4conv1fc": FPN | {"box_head": "4conv1fc"},
    "fpn, boxes": FPN | {"masks": False},
    "c4": C4,
}


def small_trunk() -> Trunk:
    torch.manual_seed(0)
    return make_trunk("resnet_tiny", width=4, strides=(2, 1, 2, 2, 1))


def small_detector(kind: str, **changes) -> Detector:
    """One of KINDS, for three classes."""
    trunk = small_trunk()
    return make_detector(trunk, SimpleNamespace(**KINDS[kind] | changes), classes=3)


def small_batch(*, masks: bool = True) -> dict:
    """Two images of 48 x 48, of which the first has two objects and the second none."""
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(2))
    boxes = torch.tensor([[4.0, 4, 20, 30], [10, 20, 46, 40]])
    batch = {
        "images": images,
        "sizes": [(48, 48), (40, 48)],
        "boxes": boxes,
        "labels": torch.tensor([2, 0]),
        "counts": [2, 0],
    }
    if masks:
        batch["masks"] = torch.zeros(2, 48, 48, dtype=torch.uint8)
        batch["masks"][0, 4:30, 4:20] = batch["masks"][1, 20:40, 10:46] = 1
    return batch
