import pytest
import torch

from losses.byol import unit
from losses.vmf import matched_labels, vmf_loss
from models.backbone import make_trunk
from models.cyborgs import VMF, Cyborgs
from models.heads import MLP
from models.views import fold_views
from utils.method import Progress

IMAGES, SIDE, CELLS = 4, 4, 16


def make_model(*, num_regions: int = 5, channels: int = 8 + 16 + 32, **keywords) -> Cyborgs:
    torch.manual_seed(0)
    return Cyborgs(
        make_trunk("resnet_tiny", width=4),
        MLP(channels, hidden_dim=16, output_dim=8),
        MLP(8, hidden_dim=16, output_dim=8),
        pool_size=SIDE,
        num_regions=num_regions,
        momentum=lambda progress: 0.9,
        **keywords,
    ).train()


def make_vmf(**keywords) -> VMF:
    return VMF(**{"weight": 0.5, "min_clusters": 3, "max_clusters": 6} | keywords)


def make_batch(*, labels: int = 9) -> dict:
    generator = torch.Generator().manual_seed(1)
    cells = torch.randint(labels, (IMAGES, 2, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    return {
        "images": torch.randn(IMAGES, 2, 3, 32, 32, generator=generator),
        "labels": cells.repeat_interleave(8, 2).repeat_interleave(8, 3),
        "num_labels": labels,
        "uniforms": torch.rand(IMAGES, 2, 2, CELLS, generator=generator),
        "replaced": torch.tensor([True, False, False, True])[:IMAGES],
    }


def run(model: Cyborgs, batch: dict, *, epoch: int = 0, seed: int = 0):
    model.before_step(Progress(0, 10, epoch))
    return model(batch, torch.Generator().manual_seed(seed))


def run_on_features(model: Cyborgs, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The features that the model compares, those of a target that is another, and the clustering loss."""
    with torch.no_grad():
        for parameter in model.target.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    encode, seen = model._encode, []
    model._encode = lambda images: seen.append(encode(images)) or seen[0]
    loss = run(model, make_batch(), seed=seed).losses["vmf"]
    return *seen[0], loss


def test_every_parameter_that_is_not_the_targets_gets_a_gradient():
    for vmf in (None, make_vmf()):
        model = make_model(vmf=vmf)
        sum(run(model, make_batch()).losses.values()).backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is None) == name.startswith("target"), name


def test_the_target_moves_after_the_step_alone():
    model = make_model()
    before = {name: value.clone() for name, value in model.target.named_parameters()}
    with torch.no_grad():
        for parameter in (*model.backbone.parameters(), *model.projector.parameters()):
            parameter += 1
    model.before_step(Progress(0, 10, 0))
    assert all(torch.equal(value, before[name]) for name, value in model.target.named_parameters())
    model.after_step(Progress(0, 10, 0))
    for name, value in model.target.named_parameters():
        torch.testing.assert_close(value, before[name] + 0.1)


def test_each_view_has_a_batchnorm_pass_of_its_own_unless_they_are_joint():
    for joint in (False, True):
        model = make_model(joint_views=joint)
        run(model, make_batch())
        counts = [value for name, value in model.named_buffers() if name.endswith("num_batches_tracked")]
        assert counts and {int(count) for count in counts} == {1 if joint else 2}


def test_other_levels_can_be_joined_at_another_temperature():
    model = make_model(levels=("c2", "c5"), channels=4 + 32, temperature=0.5)
    losses = [run(model, make_batch()).losses["loss"].item()]
    model.temperature = 0.1
    losses.append(run(model, make_batch()).losses["loss"].item())
    assert model.projector[0].weight.shape[1] == 36 and losses[0] != pytest.approx(losses[1], rel=0.05)


def test_drawn_regions_differ_where_a_view_shows_enough():
    model, batch = make_model(num_regions=5), make_batch()
    batch["labels"][0, 0] = batch["labels"][0, 0] % 3
    cells = model.find_cells(batch)
    ids, target_ids = model.choose_regions(cells, batch["uniforms"])
    assert ids is target_ids and ids.shape == (2 * IMAGES, 5)
    for drawn, shown in zip(ids.tolist(), cells.tolist()):
        assert set(drawn) <= set(shown)
        assert len(set(drawn)) == 5 or len(set(shown)) < 5
    assert not torch.equal(*make_model(shared_regions=False).choose_regions(cells, batch["uniforms"]))


def test_images_that_stand_in_for_others_are_counted_beside_the_regions():
    output = run(make_model(), make_batch())
    assert output.losses.keys() == {"loss"}
    assert output.metrics.keys() == {"regions_per_view", "matched_regions", "replaced_images"}
    assert output.metrics["replaced_images"].item() == 0.5


def test_clustering_counts_in_every_so_many_th_epoch_and_is_zero_between():
    model, batch = make_model(vmf=make_vmf(every=3)), make_batch()
    losses = [run(model, batch, epoch=epoch).losses for epoch in range(6)]
    assert all(loss.keys() == {"loss", "vmf"} for loss in losses)
    assert [loss["vmf"].item() > 0 for loss in losses] == [False, False, True, False, False, True]
    assert losses[0]["vmf"].item() == 0
    losses[0]["vmf"].backward()
    assert not model.backbone.conv1.weight.grad.any()


def test_features_that_overflowed_leave_an_epoch_without_clustering_at_zero():
    model = make_model(vmf=make_vmf(every=2))
    features = torch.full((4, 3, 2, 2), torch.inf, dtype=torch.float16)
    assert model._cluster_loss(features, features, torch.Generator()).item() == 0


@pytest.mark.parametrize("released", [False, True])
def test_clustering_is_the_weighted_sum_of_four_terms_in_the_views_and_between(released):
    model = make_model(vmf=make_vmf(released=released, temperature=0.2))
    features, target_features, loss = run_on_features(model)
    first, second = model.find_clusters(target_features, torch.Generator().manual_seed(0))
    view_1, view_2 = features.chunk(2)
    across_1, across_2 = first.labels, second.labels
    if not released:
        across_1 = matched_labels(first.labels, first.centroids, second.centroids)
        across_2 = matched_labels(second.labels, second.centroids, first.centroids)
    terms = [
        vmf_loss(view, centroids, labels, temperature=0.2, attract=not released)
        for view, centroids, labels in (
            (view_1, first.centroids, first.labels),
            (view_2, second.centroids, second.labels),
            (view_1, second.centroids, across_1),
            (view_2, first.centroids, across_2),
        )
    ]
    assert loss.item() == pytest.approx(0.5 * sum(terms).item(), rel=1e-6)


@pytest.mark.parametrize("released", [False, True])
def test_centroids_are_the_means_of_the_targets_cells_made_unit_length_unless_as_released(released):
    model = make_model(vmf=make_vmf(released=released))
    _, target_features, _ = run_on_features(model)
    clusters = model.find_clusters(target_features, torch.Generator().manual_seed(0))
    for view, (centroids, labels) in zip(target_features.chunk(2), clusters):
        assert labels.shape == (IMAGES, CELLS)
        cells = unit(view.flatten(2).transpose(1, 2))
        for k, centroid in enumerate(centroids):
            mean = cells[labels == k].mean(0)
            torch.testing.assert_close(centroid, mean if released else mean / mean.norm())
        # Every cell is with the mean that is nearest to it.
        means = torch.stack([cells[labels == k].mean(0) for k in range(len(centroids))])
        assert torch.equal(torch.cdist(cells.flatten(0, 1), means).argmin(1), labels.flatten())


def test_the_number_of_clusters_is_drawn_between_its_bounds_and_no_more_than_there_are_cells():
    features = torch.rand(2 * IMAGES, 3, 2, 2)

    def drawn(vmf, seed):
        first, second = make_model(vmf=vmf).find_clusters(features, torch.Generator().manual_seed(seed))
        assert len(first.centroids) == len(second.centroids)
        return len(first.centroids)

    assert {drawn(make_vmf(), seed) for seed in range(30)} == {3, 4, 5, 6}
    assert drawn(make_vmf(min_clusters=200, max_clusters=200), 0) == IMAGES * 4


def test_kmeans_ends_after_the_iterations_it_is_given():
    features, labels = torch.rand(2 * IMAGES, 3, 4, 4, generator=torch.Generator().manual_seed(0)), []
    for max_iter in (0, 1, 20):
        model = make_model(vmf=make_vmf(min_clusters=6, max_iter=max_iter))
        labels.append(model.find_clusters(features, torch.Generator().manual_seed(0))[0].labels)
    assert not torch.equal(labels[0], labels[1]) and not torch.equal(labels[1], labels[2])


def test_a_cluster_without_a_cell_has_a_centroid_of_zeros():
    features = torch.ones(2, 3, 2, 2)
    (centroids, labels), _ = make_model(vmf=make_vmf()).find_clusters(features, torch.Generator().manual_seed(0))
    empty = torch.ones(len(centroids), dtype=torch.bool)
    empty[labels.unique()] = False
    assert len(labels.unique()) == 1 and empty.any()
    assert not centroids[empty].any() and torch.allclose(centroids[~empty].norm(dim=1), torch.ones(1))


def test_the_generator_alone_decides_what_is_clustered():
    model, batch = make_model(vmf=make_vmf(min_clusters=2, max_clusters=12)), make_batch()
    losses = [run(model, batch, seed=seed).losses["vmf"].item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_clustering_moves_the_trunk_and_no_head():
    model = make_model(vmf=make_vmf())
    run(model, make_batch()).losses["vmf"].backward()
    assert model.backbone.layer2[0].conv1.weight.grad.any()
    for head in (model.projector, model.predictor):
        assert all(parameter.grad is None for parameter in head.parameters())


@pytest.mark.parametrize("vmf", [None, make_vmf()])
def test_a_few_steps_on_one_batch_tell_its_regions_apart(vmf):
    model, batch = make_model(vmf=vmf), make_batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    history = []
    for _ in range(15):
        losses = run(model, batch).losses
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        model.after_step(Progress(0, 10, 0))
        history.append({name: loss.item() for name, loss in losses.items()})
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]


def test_low_precision_reaches_the_networks_but_neither_loss():
    batch = make_batch()
    full = run(make_model(vmf=make_vmf()), batch).losses
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = run(make_model(vmf=make_vmf()), batch).losses
        clusters = make_model(vmf=make_vmf()).find_clusters(torch.rand(4, 3, 2, 2).bfloat16(), torch.Generator())
    for name, loss in low.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(full[name].item(), rel=0.1)
    assert clusters[0].centroids.dtype == torch.float32


def test_numbers_of_labels_change_nothing():
    batch = make_batch()
    shifted = batch | {"labels": batch["labels"].int() * 3 + 1000, "num_labels": 1030}
    assert run(make_model(), batch).losses["loss"] == run(make_model(), shifted).losses["loss"]


def test_regions_of_either_view_are_those_of_its_own_labels():
    model, batch = make_model(), make_batch()
    assert torch.equal(
        model.find_cells(batch).unflatten(1, (SIDE, SIDE)), fold_views(batch["labels"])[:, ::8, ::8].long()
    )
