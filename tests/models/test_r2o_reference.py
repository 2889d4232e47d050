"""R2O against the published model: one forward pass with its gradients, part by part."""

import pytest
import torch
import torch.nn.functional as F

from models.backbone import Trunk
from models.heads import MLP
from models.momentum import update_target
from models.pooling import pool_regions, soft_masks
from models.r2o import R2O
from models.regions import kmeans, merge_superpixels
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
    return load_reference("r2o_forward_tiny.npz")


def ours(reference: dict, prefix: str) -> dict:
    return named_ours(reference, prefix, target_projector="target.1")


def make_model(reference: dict, **keywords) -> R2O:
    model = R2O(
        Trunk(tiny_resnet()),
        MLP(32, hidden_dim=48, output_dim=16),
        MLP(16, hidden_dim=48, output_dim=16),
        momentum=lambda progress: float(reference["mm"]),
        num_clusters=lambda progress: int(reference["K"]),
        soft_labels=True,
        **keywords,
    )
    model.load_state_dict(ours(reference, "sd_before/"))
    return model.train()


def make_batch(reference: dict) -> dict:
    boxes = reference["roi_t"][:, :2, [1, 0, 3, 2]]
    return dict(
        images=torch.stack([reference["view1"], reference["view2"]], dim=1),
        spanning=reference["raw"],
        superpixels=reference["slic"],
        num_superpixels=25,
        boxes=boxes,
        flips=reference["roi_t"][:, :2, 4].bool(),
        seed=torch.zeros(2, dtype=torch.int64),
    )


def with_published_regions(model: R2O, reference: dict) -> R2O:
    model.find_regions = lambda batch, num_clusters: (reference["converted_idx"].long(), int(reference["K"]))
    return model


def test_clustering_of_target_features_matches(reference):
    model = make_model(reference)
    with torch.no_grad():
        features = model.target[0](reference["raw"], last="c4")["c4"]
        pooled = pool_regions(features, soft_masks(reference["slic"], num_labels=25, size=features.shape[-2:]))
        points = F.normalize(pooled, dim=-1).flatten(0, 1)[None]
    valid = torch.ones(points.shape[:2], dtype=torch.bool)
    labels = kmeans(points, valid, num_clusters=4, start=reference["kmeans_init"][None]).view(2, 25)
    assert torch.equal(labels, reference["kmeans_labels"])
    regions = merge_superpixels(reference["slic"], labels, size=(56, 56), soft_labels=True)
    assert torch.equal(regions, reference["converted_idx"].long())


def test_masks_prediction_target_and_loss_match(reference):
    model = with_published_regions(make_model(reference), reference)
    update_target(model.target, model.backbone, model.projector, momentum=float(reference["mm"]))
    seen = {}
    compare = model._compare
    model._compare = lambda *parts: (seen.update(zip(("prediction", "target", "masks"), parts)), compare(*parts))[1]
    output = model(make_batch(reference), torch.Generator())
    assert_close(seen["masks"], reference["masks"], 1e-5)
    assert_close(seen["prediction"], reference["q"], 1e-4)
    assert_close(seen["target"], reference["target_z"], 1e-4)
    assert output.losses["loss"].item() == pytest.approx(float(reference["loss"]), rel=1e-5)
    assert output.metrics["regions_per_image"].item() == float(reference["num_segs"])


def test_gradients_match(reference):
    model = with_published_regions(make_model(reference), reference)
    model.before_step(None)
    model(make_batch(reference), torch.Generator()).losses["loss"].backward()
    assert_gradients_close(model, ours(reference, "grad/"))


def test_target_follows_by_momentum_and_keeps_its_own_statistics(reference):
    model = make_model(reference)
    model.before_step(None)
    assert_target_follows(model, ours(reference, "sd_after/"))
