import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, recall_score

from evaluation.confusion import VOID, count_pairs, mean_iou, read_scores

NUM_CLASSES = 5


@pytest.fixture
def maps():
    """Predictions and labels of four images; class 4 is nowhere, a tenth of the labels is void."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, NUM_CLASSES - 1, (4, 12, 10), generator=generator)
    predicted = torch.where(torch.rand(labels.shape, generator=generator) < 0.6, labels, labels.roll(1, 0))
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = VOID
    return predicted, labels.to(torch.uint8)


def test_counts_and_scores_are_scikit_learns(maps):
    predicted, labels = maps
    counts = count_pairs(predicted, labels, num_classes=NUM_CLASSES)
    known = labels.numpy() != VOID
    truth, said = labels.numpy()[known], predicted.numpy()[known]
    assert np.array_equal(counts, confusion_matrix(truth, said, labels=range(NUM_CLASSES)))
    scores = read_scores(counts)
    present = np.unique(truth)
    assert scores.mean_iou == pytest.approx(jaccard_score(truth, said, labels=present, average="macro"))
    assert scores.mean_recall == pytest.approx(recall_score(truth, said, labels=present, average="macro"))
    assert scores.accuracy == pytest.approx(accuracy_score(truth, said))


def test_a_perfect_prediction_scores_one(maps):
    labels = maps[1]
    predicted = labels.clone()
    predicted[labels == VOID] = 0
    scores = read_scores(count_pairs(predicted, labels, num_classes=NUM_CLASSES))
    assert scores.mean_iou == scores.mean_recall == scores.accuracy == 1


def test_what_is_said_of_void_pixels_changes_nothing(maps):
    predicted, labels = maps
    other = torch.where(labels == VOID, (predicted + 1) % NUM_CLASSES, predicted)
    assert not torch.equal(other, predicted)
    assert torch.equal(*(count_pairs(p, labels, num_classes=NUM_CLASSES) for p in (predicted, other)))


def test_counts_of_parts_add_up(maps):
    predicted, labels = maps
    parts = [count_pairs(p, y, num_classes=NUM_CLASSES) for p, y in zip(predicted, labels)]
    assert torch.equal(sum(parts), count_pairs(predicted, labels, num_classes=NUM_CLASSES))


def test_a_class_that_only_the_prediction_has_counts_as_missed_in_the_iou_alone():
    scores = read_scores(count_pairs(torch.tensor([0, 2]), torch.tensor([0, 0]), num_classes=4))
    assert scores.mean_iou == pytest.approx((0.5 + 0) / 2)
    assert scores.mean_recall == 0.5
    assert scores.iou.isnan().tolist() == [False, True, False, True]


def test_mean_iou_counts_intersections_and_unions():
    predicted = torch.tensor([[0, 0, 1, 1]])
    labels = torch.tensor([[0, 1, 1, 2]])
    assert mean_iou(predicted, labels, num_classes=4) == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)


def test_numbers_that_are_no_class_and_other_shapes_are_refused():
    good = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="a label of 0 to 3, but there are 3 classes"):
        count_pairs(good, torch.tensor([0, 3]), num_classes=3)
    with pytest.raises(ValueError, match="a prediction of -1 to 1"):
        count_pairs(torch.tensor([-1, 1]), good, num_classes=3)
    with pytest.raises(ValueError, match="differ in shape"):
        count_pairs(torch.zeros(3), good, num_classes=3)


def test_void_alone_counts_nothing():
    labels = torch.full((2, 2), VOID)
    assert count_pairs(torch.zeros(2, 2), labels, num_classes=3).sum() == 0
