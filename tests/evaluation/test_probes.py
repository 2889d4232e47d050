import pytest
import torch
import torch.nn.functional as F

from evaluation.probe_data import ProbeData
from evaluation.probes import (
    Comparison,
    Scores,
    compare_backbones,
    extract_features,
    feature_spread,
    fit_linear,
    format_comparisons,
    pool_objects,
    probe_backbone,
    sample_pixels,
)

NUM_CLASSES = 3


def squares(count: int, *, seed: int) -> ProbeData:
    """Images of 16 x 16 whose two objects are 8 x 8 squares on the grid; an object's red is 80 times its class."""
    generator = torch.Generator().manual_seed(seed)
    categories = torch.randint(0, NUM_CLASSES, (count, 2), generator=generator)
    images = torch.randint(0, 20, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    instances = torch.full((count, 16, 16), -1)
    for row in range(count):
        for place, corner in enumerate(torch.randperm(4, generator=generator)[:2].tolist()):
            window = (slice(8 * (corner // 2), 8 * (corner // 2) + 8), slice(8 * (corner % 2), 8 * (corner % 2) + 8))
            instances[row][window] = place
            images[row, 0][window] = 80 + 80 * categories[row, place]
    return ProbeData(images, instances, categories, NUM_CLASSES)


def seeing(images: torch.Tensor) -> torch.Tensor:
    """Features from which a linear model can read the class: a bump for each level of red."""
    levels = torch.tensor([80.0, 160.0, 240.0]).view(1, -1, 1, 1)
    return F.avg_pool2d((images[:, :1].float() - levels).abs().lt(25).float(), 4)


def blind(images: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(images[:, 1:].float(), 4)


def test_features_that_hold_the_class_score_full_and_features_that_do_not_score_near_chance():
    report = compare_backbones(seeing, blind, squares(80, seed=0), squares(60, seed=1), num_seeds=3)
    accuracy, miou = report["region accuracy"], report["segmentation mIoU"]
    assert accuracy.pretrained.mean == 1
    assert accuracy.untrained.mean < accuracy.chance + 0.15
    assert miou.pretrained.mean > 0.85
    assert miou.untrained.mean < miou.chance + 0.1
    assert accuracy.learned and miou.learned


def test_equal_backbones_show_no_learning():
    report = compare_backbones(seeing, seeing, squares(40, seed=0), squares(40, seed=1), num_seeds=2)
    assert not any(row.learned for row in report.values())


def test_one_backbone_scores_what_it_does_beside_another():
    train, val = squares(40, seed=0), squares(30, seed=1)
    report = compare_backbones(seeing, blind, train, val, num_seeds=2)
    alone = probe_backbone(seeing, train, val, num_seeds=2)
    assert alone == {name: row.pretrained for name, row in report.items()}
    first = probe_backbone(seeing, train, val, num_seeds=1)
    assert {name: one.values for name, one in first.items()} == {n: one.values[:1] for n, one in alone.items()}


def test_features_of_even_directions_have_a_spread_of_one_whatever_their_length_and_equal_ones_none():
    features = torch.randn(4000, 32, 1, 1, generator=torch.Generator().manual_seed(0))
    length = torch.linspace(0.1, 10, 4000)[:, None, None, None]
    assert feature_spread(features * length) == pytest.approx(1, abs=0.01)
    assert feature_spread(features[:1].expand(9, -1, 3, 3) * length[:9]) == pytest.approx(0, abs=1e-6)
    # Cells of an image are averaged before they are compared.
    assert feature_spread(torch.tensor([1.0, -1]).view(1, 1, 1, 2) + features) == pytest.approx(1, abs=0.01)


def test_probes_are_judged_on_images_they_were_not_fitted_to():
    # As many features as training objects: a probe judged on its own training images would be nearly perfect.
    def memory(images):
        return torch.stack([noise(image) for image in images])

    def noise(image):
        generator = torch.Generator().manual_seed(int(image.long().sum()))
        return torch.randn(64, 4, 4, generator=generator)

    report = compare_backbones(memory, memory, squares(30, seed=0), squares(60, seed=1), num_seeds=2, ridge=1e-6)
    assert report["region accuracy"].pretrained.mean < 0.6


def test_each_seed_is_fitted_to_another_part_of_the_training_images():
    report = compare_backbones(blind, blind, squares(40, seed=0), squares(60, seed=1), num_seeds=4)
    assert len(set(report["segmentation mIoU"].untrained.values)) > 1


def test_objects_are_pooled_over_their_own_cells_alone():
    data = squares(3, seed=2)
    pooled = pool_objects(F.avg_pool2d(data.images[:, :1].float(), 4), data)
    torch.testing.assert_close(pooled[..., 0], 80 + 80 * data.categories.float())


def test_objects_are_pooled_by_the_area_they_have_in_each_cell():
    features = torch.arange(9.0).view(1, 1, 3, 3)
    instances = torch.full((1, 8, 8), -1)
    instances[0, :5, :3] = 0
    data = ProbeData(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), instances, torch.tensor([[0]]), 1)
    # Cells of an 8-pixel axis cut into three, as adaptive pooling cuts it: 0-2, 2-5, 5-7; each counts its mean.
    cuts = [(0, 3), (2, 6), (5, 8)]
    area = torch.tensor([[(instances[0, a:b, c:d] == 0).float().mean() for c, d in cuts] for a, b in cuts])
    torch.testing.assert_close(pool_objects(features, data)[0, 0, 0], (area * features[0, 0]).sum() / area.sum())


def test_pixels_are_sampled_where_their_labels_lie():
    side = 32
    axis = torch.arange(side)
    labels = (axis[:, None] * side + axis)[None]
    features = torch.stack(torch.meshgrid(axis.float(), axis.float(), indexing="ij"))[None]
    sampled, shown = sample_pixels(features, labels, per_image=50, seed=0)
    assert (sampled[0, :, 0] - shown[0] // side).abs().max() <= 0.5 + 1e-4
    assert (sampled[0, :, 1] - shown[0] % side).abs().max() <= 0.5 + 1e-4
    assert len(shown.unique()) > 40


def test_segmentation_is_one_plus_the_class_of_the_object_that_is_seen():
    data = squares(4, seed=4)
    for row in range(4):
        for place in range(2):
            shown = data.segmentation[row][data.instances[row] == place]
            assert torch.all(shown == data.categories[row, place] + 1)
        assert torch.all(data.segmentation[row][data.instances[row] < 0] == 0)


def test_linear_fit_solves_the_penalised_least_squares():
    generator = torch.Generator().manual_seed(0)
    features = 5 + 3 * torch.randn(50, 4, generator=generator)
    labels = torch.randint(0, 3, (50,), generator=generator)
    classifier = fit_linear(features, labels, num_classes=3, ridge=0.1)
    weight = classifier.weight.double().requires_grad_()
    bias = classifier.bias.double().requires_grad_()
    inputs = (features.double() - features.double().mean(0)) / features.double().std(0, correction=0)
    error = inputs @ weight + bias - F.one_hot(labels, 3)
    (error.square().sum() / 50 + 0.1 * weight.square().sum()).backward()
    torch.testing.assert_close(weight.grad, torch.zeros_like(weight), atol=1e-5, rtol=0)
    torch.testing.assert_close(bias.grad, torch.zeros_like(bias), atol=1e-5, rtol=0)


def test_balanced_fit_weighs_classes_alike():
    # Class 1 is rare; features say nothing, so that the scores are the classes' weights.
    labels = torch.tensor([0] * 90 + [1] * 10)
    features = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    plain = fit_linear(features, labels, num_classes=2, ridge=1e6)
    balanced = fit_linear(features, labels, num_classes=2, ridge=1e6, balanced=True)
    torch.testing.assert_close(plain.bias, torch.tensor([0.9, 0.1]))
    torch.testing.assert_close(balanced.bias, torch.tensor([0.5, 0.5]))


def test_repeating_examples_does_what_balancing_does():
    generator = torch.Generator().manual_seed(1)
    features, labels = torch.randn(30, 3, generator=generator), torch.tensor([0] * 20 + [1] * 10)
    repeated = fit_linear(
        torch.cat([features, features[20:]]), torch.cat([labels, labels[20:]]), num_classes=2, ridge=0.01
    )
    balanced = fit_linear(features, labels, num_classes=2, ridge=0.01, balanced=True)
    torch.testing.assert_close(balanced.weight, repeated.weight)


def test_scale_and_offset_of_the_features_change_no_score():
    train, val = squares(40, seed=0), squares(40, seed=1)
    report = compare_backbones(blind, lambda images: 7 * blind(images) - 3, train, val, num_seeds=2)
    for row in report.values():
        assert row.pretrained.mean == pytest.approx(row.untrained.mean, abs=0.01)


def test_features_are_extracted_in_batches_without_gradient():
    weight = torch.ones(1, requires_grad=True)
    features = extract_features(lambda images: images.float() * weight, squares(5, seed=0).images, batch_size=2)
    assert features.shape == (5, 3, 16, 16) and not features.requires_grad


def test_a_gain_within_the_larger_spread_is_not_called_learned():
    steady, wide = Scores((0.30, 0.30)), Scores((0.25, 0.45))
    assert not Comparison(wide, steady, 0.1).learned
    assert Comparison(Scores((0.50, 0.52)), Scores((0.30, 0.32)), 0.1).learned


@pytest.mark.parametrize(
    ("learned", "words"),
    [((True, True), "by more than the probes' spread"), ((True, False), "some of"), ((False, False), "does not show")],
)
def test_verdict_says_what_was_seen(learned, words):
    rows = {gained: Comparison(Scores((0.9 if gained else 0.1,)), Scores((0.1,)), 0.1) for gained in (True, False)}
    table = format_comparisons({"a": rows[learned[0]], "b": rows[learned[1]]})
    assert words in table.splitlines()[-1]
