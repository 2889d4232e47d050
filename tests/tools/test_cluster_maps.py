import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data.label_maps import enlarge
from models.backbone import Trunk, make_trunk
from tests.losses.allocations import Allocations
from tests.models.published import load_reference, tiny_resnet
from tools.cluster_maps import Clustering, cell_features, cluster_cells, frozen_layers

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def reference():
    return load_reference("cyborgs_bootstrap.npz")


@pytest.fixture(scope="module")
def features(reference):
    """(h, w, D) of each recorded image, by the recorded network."""
    net = tiny_resnet(c4=16, c5=16)
    net.load_state_dict({key[4:]: value for key, value in reference.items() if key.startswith("net/")})
    layers = frozen_layers(Trunk(net), "layer2.2", device=CPU)
    return [cell_features(layers, reference[f"img{i}"], device=CPU) for i in range(reference["n_images"])]


def groups(reference):
    size, count = int(reference["imgs_per_batch"]), int(reference["n_images"])
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def test_features_of_whole_images_are_the_releases_at_length_one(reference, features):
    for number, ours in enumerate(features):
        theirs = F.normalize(reference[f"feat{number}"], dim=0).permute(1, 2, 0)
        assert torch.allclose(ours, theirs, atol=1e-5)
    for number, members in enumerate(groups(reference)):
        ours = torch.cat([features[index].flatten(0, 1) for index in members])
        assert torch.allclose(ours, reference[f"group{number}_features"], atol=1e-5)


def test_the_releases_labels_become_its_maps(reference, features):
    for number, members in enumerate(groups(reference)):
        parts = reference[f"group{number}_labels"].split([features[i].shape[:2].numel() for i in members])
        for index, part in zip(members, parts):
            mask = reference[f"mask{index}"].numpy()
            assert (enlarge(part.view(features[index].shape[:2]).numpy(), mask.shape) == mask).all()


def inertia(points, labels):
    means = torch.stack([points[labels == label].mean(0) for label in labels.unique()])
    return torch.cdist(points, means).square().amin(1).sum()


def test_clusters_are_about_as_tight_as_the_releases(reference, features):
    for number, members in enumerate(groups(reference)):
        K = int(reference[f"group{number}_K"])
        clustering = Clustering(min_clusters=K, max_clusters=K)
        points = reference[f"group{number}_features"]
        theirs = inertia(points, reference[f"group{number}_labels"])
        ours = []
        for generation in range(5):
            maps = cluster_cells(
                [features[index] for index in members], clustering=clustering, generation=generation, group=number
            )
            ours.append(inertia(points, torch.cat([torch.from_numpy(labels).flatten() for labels in maps])))
        assert np.median(ours) <= 1.05 * theirs


def count_clusters(maps):
    labels = np.concatenate([labels.ravel() for labels in maps])
    assert labels.min() == 0 and labels.max() == len(np.unique(labels)) - 1
    return len(np.unique(labels))


def test_the_number_of_clusters_is_drawn_between_both_bounds_for_every_group_and_generation():
    torch.manual_seed(0)
    features = [F.normalize(torch.randn(*shape, 6), dim=-1) for shape in ((5, 4), (3, 7))]
    clustering = Clustering(min_clusters=3, max_clusters=6)
    for key in ("group", "generation"):
        counts = []
        for number in range(25):
            numbers = {"group": 1, "generation": 1, key: number}
            maps = cluster_cells(features, clustering=clustering, **numbers)
            assert [labels.shape for labels in maps] == [(5, 4), (3, 7)]
            counts.append(count_clusters(maps))
        assert set(counts) == {3, 4, 5, 6}
    others = [cluster_cells(features, clustering=Clustering(seed=seed), group=0, generation=0)[0] for seed in (0, 0, 1)]
    assert (others[0] == others[1]).all() and (others[0] != others[2]).any()


def test_there_are_no_more_clusters_than_cells_of_the_smallest_image():
    torch.manual_seed(0)
    features = [F.normalize(torch.randn(*shape, 6), dim=-1) for shape in ((8, 9), (1, 5))]
    maps = cluster_cells(features, clustering=Clustering(min_clusters=50), generation=0, group=0)
    assert count_clusters(maps) == 5


def test_a_group_of_many_cells_takes_memory_in_proportion_and_as_many_iterations_as_asked_for():
    torch.manual_seed(0)
    features = [F.normalize(torch.randn(30, 40, 6), dim=-1) for _ in range(2)]
    made = []
    for max_iter in (1, 20):
        clustering = Clustering(min_clusters=8, max_clusters=8, max_iter=max_iter)
        with Allocations() as allocations:
            maps = cluster_cells(features, clustering=clustering, generation=0, group=0)
        assert allocations.peak < 5 * 2400 * (8 + 6)
        made.append(np.stack(maps))
    assert (made[0] != made[1]).any()


def test_frozen_layers_are_a_copy_that_neither_trains_nor_shares_anything():
    trunk = make_trunk("resnet_tiny", width=4).double()
    trunk(torch.randn(4, 3, 16, 16).double())
    layers = frozen_layers(trunk, "layer2", device=CPU)
    images = torch.randn(2, 3, 16, 24)
    before = layers(images)
    assert torch.allclose(before, trunk.eval()(images.double())["c3"].float(), atol=1e-5)
    with torch.no_grad():
        for tensor in (*trunk.parameters(), *trunk.buffers()):
            tensor.fill_(1)
    assert torch.equal(layers(images), before) and not before.requires_grad
    assert not any(module.training for module in layers.modules())


@pytest.mark.parametrize(
    "wrong", [{"images_per_group": 0}, {"min_clusters": 9, "max_clusters": 8}, {"max_clusters": 65537}]
)
def test_settings_that_make_no_maps_are_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        Clustering(**wrong)
