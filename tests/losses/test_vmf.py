import math

import numpy as np
import pytest
import torch

from losses.byol import unit
from losses.vmf import matched_labels, vmf_loss
from tests.paths import REFERENCE


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    with np.load(REFERENCE / "cyborgs_vmf.npz") as arrays:
        return {key: torch.as_tensor(arrays[key]) for key in arrays.files}


@pytest.mark.parametrize("case", [0, 1])
def test_the_four_terms_and_their_gradients_match_the_release(reference, case):
    theirs = {key.removeprefix(f"v{case}_"): value for key, value in reference.items()}
    views = {view: theirs[f"omap{view}"].clone().requires_grad_() for view in (1, 2)}
    loss = 0
    for view, features in views.items():
        labels = theirs[f"labels{view}"].view(len(features), -1)
        for centroids in (theirs["centroids1"], theirs["centroids2"]):
            loss += vmf_loss(features, centroids, labels, temperature=float(theirs["vmf_temp"]), attract=False)
    loss *= float(theirs["vmf_weight"])
    loss.backward()
    assert loss.item() == pytest.approx(theirs["loss"].item(), rel=1e-5)
    for view, features in views.items():
        their_gradient = theirs[f"grad_omap{view}"]
        assert (features.grad - their_gradient).abs().max() <= 1e-5 * their_gradient.abs().max()


def random_case(*, images=2, channels=6, size=(3, 2), clusters=4):
    features = torch.randn(images, channels, *size, dtype=torch.float64)
    centroids = unit(torch.randn(clusters, channels, dtype=torch.float64))
    return features, centroids, torch.randint(clusters, (images, size[0] * size[1]))


def slow_loss(features, centroids, labels, *, temperature, sign):
    """One cell after the other."""
    losses = []
    B, _, h, w = features.shape
    for b, y, x in np.ndindex(B, h, w):
        cell = features[b, :, y, x] / features[b, :, y, x].norm()
        logits = [sign * float(cell @ centroid) / temperature for centroid in centroids]
        losses.append(math.log(sum(map(math.exp, logits))) - logits[labels[b, y * w + x]])
    return sum(losses) / len(losses)


@pytest.mark.parametrize("attract", [True, False])
def test_loss_equals_a_slow_loop(attract):
    case = random_case()
    loss = vmf_loss(*case, temperature=0.3, attract=attract)
    assert loss.item() == pytest.approx(slow_loss(*case, temperature=0.3, sign=1 if attract else -1), rel=1e-10)


def test_gradients_are_those_of_finite_differences():
    features, centroids, labels = random_case()
    features.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: vmf_loss(x, centroids, labels, temperature=0.3), features, fast_mode=True)


@pytest.mark.parametrize("attract", [True, False])
def test_a_step_brings_cells_nearer_to_their_centroid_if_it_is_to_attract_and_else_takes_them_away(attract):
    features, centroids, labels = random_case(images=8)
    features.requires_grad_()

    def cosine(x):
        return (unit(x.flatten(2).transpose(1, 2)) * centroids[labels]).sum(-1).mean().item()

    (gradient,) = torch.autograd.grad(vmf_loss(features, centroids, labels, temperature=0.3, attract=attract), features)
    assert (cosine(features - 0.1 * gradient) > cosine(features)) == attract


def test_the_length_of_features_and_the_numbers_of_clusters_do_not_matter():
    features, centroids, labels = random_case()
    before = vmf_loss(features, centroids, labels, temperature=0.1).item()
    order = torch.tensor([2, 0, 3, 1])
    assert vmf_loss(7 * features, centroids[order], order.argsort()[labels], temperature=0.1).item() == pytest.approx(
        before
    )


def test_autocast_and_low_precision_features_are_compared_in_float32():
    features, centroids, labels = random_case()
    features, centroids = features.bfloat16(), centroids.float()
    plain = vmf_loss(features.float(), centroids, labels, temperature=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = vmf_loss(features, centroids, labels, temperature=0.1)
    assert loss.dtype == torch.float32 and loss.item() == plain.item()


def test_autocast_does_not_blur_which_cluster_is_nearest():
    centroids, every = torch.randn(1, 16) + 0.02 * torch.randn(20, 16), torch.arange(20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(matched_labels(every, centroids, centroids), every)


def test_clusters_are_matched_with_the_nearest_by_angle_and_never_with_an_empty_one():
    _, centroids, labels = random_case(clusters=5)
    order = torch.tensor([3, 1, 4, 0, 2])
    # The other view's clusters in another order, of other lengths, three more among them.
    lengths = torch.tensor([5.0, 1.0, 0.2, 3.0, 0.1])[:, None]
    empty = torch.zeros(2, centroids.shape[1], dtype=torch.float64)
    others = torch.cat([empty, centroids[order] * lengths, -centroids[:1]])
    matched = matched_labels(labels, centroids, others)
    assert torch.equal(order[matched - 2], labels)
    # All that is left points away, but an empty cluster is no cluster.
    assert matched_labels(torch.zeros(1, dtype=torch.long), centroids, torch.cat([empty, -centroids[:1]])).item() == 2


@pytest.mark.parametrize("attract", [True, False])
def test_an_empty_cluster_changes_nothing(attract):
    generator = torch.Generator().manual_seed(3)
    features, centroids = torch.rand(2, 5, 3, 3, generator=generator), torch.rand(4, 5, generator=generator)
    labels = torch.randint(4, (2, 9), generator=generator)
    without = vmf_loss(features, centroids, labels, temperature=0.1, attract=attract)
    beside = vmf_loss(features, torch.cat([centroids, torch.zeros(2, 5)]), labels, temperature=0.1, attract=attract)
    assert torch.isclose(beside, without)
