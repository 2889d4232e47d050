"""One class against the rest by a linear SVM: its cost by cross-validation, few examples, and average precision."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from evaluation.precision_recall import area_below_envelope
from utils.errors import DataError
from utils.seeding import numpy_generator


@dataclass(frozen=True)
class SvmSettings:
    """How every SVM is fitted.

    Attributes:
        costs: among which one is chosen.
        folds: of the cross-validation.
        positive_weight: what an error on an image that shows the class costs, against one on another.
        tolerance, max_iter: when the solver stops.
        seed: of the solver, which goes through the examples in random order.
    Source: train_svm_kfold.py of fair_self_supervision_benchmark, which leaves the solver without a seed.
    """

    costs: tuple[float, ...]
    folds: int = 3
    positive_weight: float = 2
    tolerance: float = 1e-4
    max_iter: int = 2000
    seed: int = 0

    def make(self, cost: float) -> LinearSVC:
        return LinearSVC(
            C=cost,
            class_weight={1: self.positive_weight, -1: 1},
            penalty="l2",
            loss="squared_hinge",
            dual=True,
            tol=self.tolerance,
            max_iter=self.max_iter,
            random_state=self.seed,
        )

    def fit(self, cost: float, features: np.ndarray, labels: np.ndarray) -> LinearSVC:
        with warnings.catch_warnings():
            # As in the published protocol, high costs end by max_iter.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return self.make(cost).fit(features, labels)


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area below precision's upper envelope over recall.

    Args:
        scores: (N,) of the images, higher for those that show the class.
        positive: (N,) bool, at least one.
    Returns:
        In (0, 1]. Images of equal score come in together, so that their order decides nothing.
    Source: get_precision_recall in svm_helper.py of fair_self_supervision_benchmark, and VOC's own from 2010 on. Differs: that
        takes images of equal score one by one, in the order in which sorting leaves them.
    """
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(positive[order])
    last_of_equals = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    found, taken = found[last_of_equals], last_of_equals + 1
    return float(area_below_envelope(found / taken, found, total=found[-1]))


def choose_cost(features: np.ndarray, labels: np.ndarray, settings: SvmSettings) -> tuple[float, list[float]]:
    """The cost whose classifiers rank the left-out folds best.

    Args:
        features: (N, D) float64.
        labels: (N,) 1 or -1.
    Returns:
        The first of the best costs, and every cost's average precision, the mean over folds (scikit-learn's, which is the area
        below precision itself).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        precisions = [
            cross_val_score(
                settings.make(cost), features, labels, cv=settings.folds, scoring="average_precision"
            ).mean()
            for cost in settings.costs
        ]
    return settings.costs[int(np.argmax(precisions))], [float(value) for value in precisions]


def sample_few(labels: np.ndarray, *, shots: int, num_classes: int, seeds: Sequence[int], name: str) -> np.ndarray:
    """Places of k images that show a class, and of k for each other class that do not.

    Args:
        labels: (N,) 1, -1, or 0 where that is difficult to say; those are not drawn.
        shots: k.
        num_classes: C; (C - 1) k images do not show the class.
        seeds: name the draw.
        name: of the class, for the error.
    Raises:
        DataError: there are too few.
    Source: create_voc_low_shot_samples.py of fair_self_supervision_benchmark.
    """
    rng = numpy_generator(*seeds)
    drawn = []
    for label, count in ((1, shots), (-1, shots * (num_classes - 1))):
        there = np.flatnonzero(labels == label)
        if len(there) < count:
            shows = "show" if label == 1 else "do not show"
            raise DataError(
                f"low_shot.shots: {shots} needs {count} training images that {shows} {name}; there are {len(there)}"
            )
        drawn.append(rng.choice(there, count, replace=False))
    return np.concatenate(drawn)
