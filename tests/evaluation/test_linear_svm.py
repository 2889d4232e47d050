import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from evaluation.linear_svm import SvmSettings, average_precision, choose_cost, sample_few
from utils.errors import DataError


def by_definition(scores, positive):
    """At each recall the best precision that any threshold has there or beyond, summed over the steps of recall."""
    points = []
    for threshold in np.unique(scores):
        taken = scores >= threshold
        points.append(((taken & positive).sum() / positive.sum(), (taken & positive).sum() / taken.sum()))
    area, reached = 0.0, 0.0
    for recall, _ in sorted(points):
        area += (recall - reached) * max(precision for other, precision in points if other >= recall)
        reached = recall
    return area


@pytest.mark.parametrize("levels", [4, 1000])
def test_average_precision_is_the_area_below_the_envelope(levels):
    rng = np.random.default_rng(levels)
    for _ in range(20):
        # With few levels, many images have the same score.
        scores, positive = rng.integers(0, levels, 40) / 8, rng.random(40) < 0.3
        positive[0] = True
        assert average_precision(scores, positive) == pytest.approx(by_definition(scores, positive), abs=1e-12)


def test_images_in_perfect_order_score_one_and_images_that_are_all_alike_score_their_share():
    positive = np.array([True, False, True, False, False])
    assert average_precision(np.array([9.0, 1, 8, 2, 3]), positive) == 1
    assert average_precision(np.zeros(5), positive) == pytest.approx(0.4)


def test_it_is_scikit_learns_where_precision_only_falls():
    scores, positive = np.arange(12.0, 0, -1), np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0], bool)
    assert average_precision(scores, positive) == pytest.approx(average_precision_score(positive, scores))
    # And no less where it rises in between.
    rng = np.random.default_rng(0)
    positive = rng.random(12) < 0.4
    assert average_precision(scores, positive) > average_precision_score(positive, scores)


def noisy(seed, count=60, dim=8):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, dim))
    labels = np.where(features[:, 0] + 0.8 * rng.normal(size=count) > 0.8, 1, -1)
    return features / np.linalg.norm(features, axis=1, keepdims=True), labels


@pytest.mark.filterwarnings("ignore:Liblinear failed to converge")
def test_a_cost_is_chosen_by_the_mean_over_three_folds():
    features, labels = noisy(0)
    costs = (1e-4, 1e-2, 1.0, 100.0)
    settings = SvmSettings(costs=costs, seed=3, max_iter=500)
    expected = []
    for cost in costs:
        scores = []
        for train, left_out in StratifiedKFold(3).split(features, labels):
            svm = LinearSVC(C=cost, class_weight={1: 2, -1: 1}, dual=True, max_iter=500, random_state=3)
            svm.fit(features[train], labels[train])
            scores.append(average_precision_score(labels[left_out] == 1, svm.decision_function(features[left_out])))
        expected.append(np.mean(scores))
    cost, precisions = choose_cost(features, labels, settings)
    np.testing.assert_allclose(precisions, expected)
    assert cost == costs[int(np.argmax(expected))] and len(set(precisions)) > 1


def test_errors_on_positive_images_cost_as_much_more_as_the_weight_says():
    features, labels = noisy(1)
    # An image of weight two is as an image that is there twice.
    twice = np.concatenate([np.arange(len(labels)), np.flatnonzero(labels == 1)])
    settings = {"costs": (1.0,), "tolerance": 1e-8, "max_iter": 100000}
    weighted = SvmSettings(**settings, positive_weight=2).fit(1.0, features, labels)
    repeated = SvmSettings(**settings, positive_weight=1).fit(1.0, features[twice], labels[twice])
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, atol=1e-4)
    assert not np.allclose(
        weighted.coef_, SvmSettings(**settings, positive_weight=1).fit(1.0, features, labels).coef_, atol=1e-2
    )


LABELS = np.array([1] * 9 + [-1] * 30 + [0] * 20)


def test_few_images_are_drawn_of_those_that_show_a_class_and_of_those_that_do_not():
    drawn = [sample_few(LABELS, shots=4, num_classes=5, seeds=(0, sample), name="cat") for sample in (0, 0, 1)]
    for one in drawn:
        assert len(set(one)) == len(one) and sorted(LABELS[one]) == [-1] * 16 + [1] * 4
    assert drawn[0].tolist() == drawn[1].tolist() != drawn[2].tolist()


@pytest.mark.parametrize("shots, message", [(10, "10 training images that show cat; there are 9"), (8, "32 .* do not")])
def test_a_class_with_too_few_images_is_named(shots, message):
    with pytest.raises(DataError, match=message):
        sample_few(LABELS, shots=shots, num_classes=5, seeds=(0,), name="cat")
