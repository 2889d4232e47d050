"""R2O against the published model: one forward pass with its gradients, part by part."""

import importlib.util

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.backbone import Trunk
from models.heads import MLP
from models.momentum import update_target
from models.pooling import pool_regions, soft_masks
from models.r2o import R2O
from models.regions import kmeans, merge_superpixels
from tests.paths import REFERENCE

# Their names to ours: encoder.N are a ResNet's children in order, projetion (sic) is the projector.
CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
LAYERS = {"l1": "0", "bn1": "1", "l2": "3"}


def our_name(name: str) -> str:
    owner, part, *rest = name.split(".")
    if part == "encoder":
        rest[0] = CHILDREN[rest[0]]
        module = {"online_network": "backbone", "target_network": "target.0"}[owner]
    else:
        rest[0] = LAYERS[rest[0]]
        module = {"online_network": "projector", "target_network": "target.1", "predictor": "predictor"}[owner]
    return ".".join([module, *rest])


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    with np.load(REFERENCE / "r2o_forward_tiny.npz") as arrays:
        return {key: torch.as_tensor(arrays[key]) for key in arrays.files}


def make_model(reference: dict, **keywords) -> R2O:
    spec = importlib.util.spec_from_file_location("tinynet", REFERENCE / "tinynet.py")
    tinynet = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tinynet)
    model = R2O(
        Trunk(tinynet.TinyResNet()),
        MLP(32, hidden_dim=48, output_dim=16),
        MLP(16, hidden_dim=48, output_dim=16),
        momentum=lambda progress: float(reference["mm"]),
        num_clusters=lambda progress: int(reference["K"]),
        soft_labels=True,
        **keywords,
    )
    state = {
        our_name(key.removeprefix("sd_before/")): value
        for key, value in reference.items()
        if key.startswith("sd_before/")
    }
    model.load_state_dict(state)
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


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, share: float, floor: float = 0.0) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= max(share * theirs.abs().max(), floor)


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
    theirs = {our_name(key.removeprefix("grad/")): value for key, value in reference.items() if key.startswith("grad/")}
    ours = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert ours.keys() == theirs.keys()
    floor = 1e-4 * max(value.abs().max() for value in theirs.values())
    for name, value in theirs.items():
        assert_close(ours[name], value, 1e-2, floor)


def test_target_follows_by_momentum_and_keeps_its_own_statistics(reference):
    model = make_model(reference)
    model.before_step(None)
    theirs = {
        our_name(key.removeprefix("sd_after/")): value
        for key, value in reference.items()
        if key.startswith("sd_after/")
    }
    ours = dict(model.target.named_parameters(prefix="target"))
    for name in set(ours) & set(theirs):
        assert_close(ours[name], theirs[name], 1e-6)
    assert {
        name for name in theirs if name.startswith("target") and "running" not in name and "tracked" not in name
    } == set(ours)
