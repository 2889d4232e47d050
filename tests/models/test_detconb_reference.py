"""DetCon-B against the published model: one forward pass with its gradients, part by part."""

import pytest
import torch

from models.backbone import Trunk
from models.detconb import DetCon
from models.heads import MLP
from models.views import unfold_views
from tests.models.published import (
    assert_close,
    assert_gradients_close,
    assert_target_follows,
    load_reference,
    named_ours,
    tiny_resnet,
)


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    return load_reference("detcon_forward_tiny.npz")


def ours(reference: dict, prefix: str) -> dict:
    # Between trunk and projector stands a neck, which has no parameter here.
    return named_ours(reference, prefix, target_projector="target.2")


def make_model(reference: dict) -> DetCon:
    model = DetCon(
        Trunk(tiny_resnet(c4=64)),
        MLP(32, hidden_dim=48, output_dim=16),
        MLP(16, hidden_dim=48, output_dim=16),
        momentum=lambda progress: float(reference["mm"]),
        shared_regions=False,
    )
    model.load_state_dict(ours(reference, "sd_before/"))
    # Which regions are drawn hangs on torch's generator: the published draw is an input.
    model.choose_regions = lambda cells, uniforms: (reference["online_ids"].long(), reference["target_ids"].long())
    return model.train()


def make_batch(reference: dict) -> dict:
    labels = reference["masks"].squeeze(2)
    return {
        "images": torch.stack([reference["view1"], reference["view2"]], dim=1),
        "labels": labels.int(),
        "num_labels": int(labels.max()) + 1,
        "uniforms": torch.zeros(2, 2, 2, 16),
    }


def test_pooled_regions_predictions_targets_and_loss_match(reference):
    model = make_model(reference)
    model.before_step(None)
    seen = {}
    for name, module in {"online": model.projector, "predictor": model.predictor, "target": model.target[2]}.items():
        module.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: (inputs[0], output)}))
    output = model(make_batch(reference), torch.Generator())
    assert_close(seen["online"][0], reference["online_pooled"], 1e-4)
    assert_close(seen["target"][0], reference["target_pooled"], 1e-4)
    assert_close(seen["predictor"][1], reference["q"], 1e-4)
    assert_close(seen["target"][1], reference["target_z"], 1e-4)
    assert output.losses["loss"].item() == pytest.approx(float(reference["loss"]), rel=1e-5)


def test_gradients_match(reference):
    model = make_model(reference)
    model.before_step(None)
    model(make_batch(reference), torch.Generator()).losses["loss"].backward()
    assert_gradients_close(model, ours(reference, "grad/"))


def test_target_follows_by_momentum(reference):
    model = make_model(reference)
    model.before_step(None)
    assert_target_follows(model, ours(reference, "sd_after/"))


def test_matched_regions_are_those_that_the_other_view_drew(reference):
    output = make_model(reference)(make_batch(reference), torch.Generator())
    online, target = (unfold_views(reference[f"{name}_ids"]) for name in ("online", "target"))
    shown = [
        bool((target[image, 1 - view] == region).any())
        for image in range(2)
        for view in range(2)
        for region in online[image, view]
    ]
    assert output.metrics["matched_regions"].item() == pytest.approx(sum(shown) / len(shown))
