"""How often each class is taken for each other, and what is read off that: intersections over unions, accuracies."""

from typing import NamedTuple

import torch
from torch import Tensor

from data.voc import VOID


class Scores(NamedTuple):
    """What a confusion matrix says.

    iou: (C,) intersection over union of each class; NaN where neither truth nor prediction has it.
    recall: (C,) share of a class' pixels that were found; NaN where the truth has none.
    accuracy: share of all pixels that are right.
    """

    iou: Tensor
    recall: Tensor
    accuracy: float

    @property
    def mean_iou(self) -> float:
        """Over the classes that occur in the truth or the prediction."""
        return self.iou.nanmean().item()

    @property
    def mean_recall(self) -> float:
        """Over the classes that occur in the truth."""
        return self.recall.nanmean().item()


def count_pairs(predicted: Tensor, labels: Tensor, *, num_classes: int) -> Tensor:
    """Count pixels by what they are and what they were taken for.

    Args:
        predicted: integers of any shape, in [0, C).
        labels: the same shape, in [0, C) or VOID; void pixels are not counted.
        num_classes: C.
    Returns:
        (C, C) int64 on the labels' device: rows are the truth, columns the prediction. Counts of parts add up.
    Raises:
        ValueError: other shapes, or a label or a prediction that is no class.
    """
    if predicted.shape != labels.shape:
        raise ValueError(f"predictions {tuple(predicted.shape)} and labels {tuple(labels.shape)} differ in shape")
    known = labels != VOID
    predicted, labels = predicted[known].long(), labels[known].long()
    for name, values in (("label", labels), ("prediction", predicted)):
        if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < num_classes:
            raise ValueError(
                f"a {name} of {int(values.min())} to {int(values.max())}, but there are {num_classes} classes"
            )
    pairs = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return pairs.view(num_classes, num_classes)


def read_scores(counts: Tensor) -> Scores:
    """The scores of (C, C) counts, rows the truth.

    Source: MMSegmentation's IoUMetric: classes that do not occur are left out of the means.
    """
    counts = counts.double()
    right, truth, said = counts.diagonal(), counts.sum(1), counts.sum(0)
    # 0 / 0 is the NaN that the means leave out.
    return Scores(right / (truth + said - right), right / truth, (right.sum() / counts.sum()).item())


def mean_iou(predicted: Tensor, labels: Tensor, *, num_classes: int) -> float:
    """Mean over the classes that either map holds of intersection over union, counted over all pixels at once."""
    return read_scores(count_pairs(predicted, labels, num_classes=num_classes)).mean_iou
