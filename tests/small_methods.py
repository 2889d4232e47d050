"""Every method in small, as its main builds it, with a batch to step on."""

import torch

from benchmarks.synthetic import Trained, make_config, make_trained

_TRUNK = ("model.backbone.width=4", "model.projection.hidden_dim=8", "model.projection.output_dim=4")
_PREDICTOR = ("model.predictor.input_dim=null", "model.predictor.hidden_dim=8", "model.predictor.output_dim=4")
# What makes a step take the paths that a plain one leaves out.
_MORE = {
    "resim": ("model.queue_size=64",),
    "mocov2": ("model.queue_size=64",),
    "cyborgs": (*_PREDICTOR, "loss.shared_regions=false", "model.norm_per_slot=true"),
    "detconb": (*_PREDICTOR, "optimizer.clip_norm=1", "optimizer.accumulate_steps=2"),
}


def tiny(name: str, *changes: str, device: str = "cpu", precision: str = "O0") -> Trained:
    """One of benchmarks.synthetic's METHODS and VARIANTS on 4 images of 64 px; `changes` are `key=value` of its config."""
    options = {"backbone": "resnet_tiny", "size": 64, "batch": 4, "precision": precision}
    config = make_config(name, **options, overrides=(*_TRUNK, *_MORE.get(name, _PREDICTOR), *changes))
    return make_trained(name, config, torch.device(device), clusters=6)
