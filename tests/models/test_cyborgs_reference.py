"""CYBORGS against the published model: one forward pass with its gradients and the update after it, part by part."""

import pytest
import torch

from models.backbone import Trunk
from models.cyborgs import Cyborgs
from models.heads import MLP
from tests.models.published import (
    assert_close,
    assert_gradients_close,
    assert_target_follows,
    load_reference,
    tiny_resnet,
)

# Their names to ours; below these, a trunk has torchvision's names and a head numbers, both as ours.
OURS = {
    "net.": "backbone.",
    "online_encoder.projector.net.": "projector.",
    "online_predictor.net.": "predictor.",
    "target_encoder.net.": "target.0.",
    # Between trunk and projector stands the neck that joins the levels, which has no parameter.
    "target_encoder.projector.net.": "target.2.",
}


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    return load_reference("cyborgs_forward_tiny.npz")


def ours(reference: dict, prefix: str) -> dict:
    found = {}
    for key, value in reference.items():
        if key.startswith(prefix) and ".fc." not in key:
            name = key.removeprefix(prefix)
            (theirs,) = [start for start in OURS if name.startswith(start)]
            found[OURS[theirs] + name.removeprefix(theirs)] = value
    return found


def folded(reference: dict, name: str) -> torch.Tensor:
    return torch.cat([reference[f"{name}1"], reference[f"{name}2"]])


def make_model(reference: dict) -> Cyborgs:
    model = Cyborgs(
        Trunk(tiny_resnet(c4=24)),
        MLP(68, hidden_dim=32, output_dim=12, per_slot=True),
        MLP(12, hidden_dim=32, output_dim=12, per_slot=True),
        pool_size=3,
        num_regions=6,
        momentum=lambda progress: float(reference["ema"]),
        shared_regions=False,
    )
    model.load_state_dict(ours(reference, "sd_before/"))
    # Which regions are drawn hangs on torch's generator, and some of those drawn are not there: inputs both.
    model.choose_regions = lambda cells, uniforms: (folded(reference, "online_ids"), folded(reference, "target_ids"))
    return model.train()


def make_batch(reference: dict) -> dict:
    return {
        "images": torch.stack([reference["crop1"], reference["crop2"]], dim=1),
        "labels": torch.stack([reference["mask1"], reference["mask2"]], dim=1),
        "num_labels": int(reference["num_classes"]),
        "uniforms": torch.zeros(4, 2, 2, 9),
        "replaced": torch.zeros(4, dtype=torch.bool),
    }


def test_joined_features_projections_predictions_and_loss_match(reference):
    model, seen = make_model(reference), {}
    modules = {
        "online_map": model.neck,
        "target_map": model.target[1],
        "online_pred": model.predictor,
        "target_proj": model.target[2],
    }
    for name, module in modules.items():
        seen[name] = []
        module.register_forward_hook(lambda _, inputs, output, name=name: seen[name].append(output))
    output = model(make_batch(reference), torch.Generator())
    for name in ("online_map", "target_map"):
        assert_close(torch.cat([features["joined"] for features in seen[name]]), folded(reference, name), 1e-4)
    for name in ("online_pred", "target_proj"):
        assert_close(torch.cat(seen[name]), folded(reference, name), 1e-4)
    assert output.losses["loss"].item() == pytest.approx(float(reference["loss"]), rel=1e-5)


def test_gradients_match(reference):
    model = make_model(reference)
    model.before_step(None)
    model(make_batch(reference), torch.Generator()).losses["loss"].backward()
    assert_gradients_close(model, ours(reference, "grad/"))


def test_statistics_and_target_match_after_the_step(reference):
    model, theirs = make_model(reference), ours(reference, "sd_after_forward_and_ema/")
    model.before_step(None)
    model(make_batch(reference), torch.Generator())
    model.after_step(None)
    assert_target_follows(model, theirs)
    buffers = dict(model.named_buffers())
    assert buffers.keys() <= theirs.keys()
    for name, value in buffers.items():
        assert_close(value, theirs[name], 1e-5)
