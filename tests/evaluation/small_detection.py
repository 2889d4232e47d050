"""A small detection's config, for test_detection.py and test_detection_parts.py."""

import json

from evaluation.detection_config import DetectionConfig

SMALL = {
    "model": {
        "backbone": {"type": "resnet_tiny", "width": 4, "strides": [2, 1, 2, 2, 1]},
        "fpn_channels": 8,
        "head_width": 16,
        "conv_width": 8,
        "anchor_sizes": [[8], [12], [16], [24], [32]],
        "proposals_train": [40, 20],
        "proposals_test": [40, 10],
        "sampled_boxes": 16,
        "pool_size": 3,
        "pool_cells": 3,
        "score_threshold": 0.0,
        "detections_per_image": 5,
    },
    "data": {
        "train": ["train"],
        "val": "val",
        "sides": [48],
        "test_side": 48,
        "data_workers": 0,
        "train_batch_size": 4,
    },
    "optimizer": {"base_lr": 0.05, "base_batch": 4, "total_steps": 3, "schedule": "constant"},
    "threads": 1,
}
C4 = {"model.detector": "c4", "model.masks": False, "model.anchor_sizes": [[8, 16, 32]]}

# Enough for a score above 0.
TRAINED = {
    "optimizer.type": "adamw",
    "optimizer.base_lr": 0.004,
    "optimizer.total_steps": 30,
    "log.log_step": 30,
}


def merged(changes):
    content = json.loads(json.dumps(SMALL)) | {"log": {}}
    for key, value in changes.items():
        section, _, name = key.partition(".")
        content[section][name] = value
    return content


def config(folder, **changes):
    return DetectionConfig.model_validate(merged({"data.dir": str(folder), "data.val_batch_size": 4, **changes}))
