"""Weighted k-nearest-neighbour classification on frozen features.

    python -m evaluation.knn --cfg imagenet --weights RUN_OR_CHECKPOINT --set data.dir=imagenet
    torchrun --nproc_per_node 8 -m evaluation.knn ...

data.dir holds TRAIN/CLASS/... and VAL/CLASS/...; an image's class is the first folder of its path.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from data.labelled_images import class_labels
from data.listing import ImageList, find_images
from evaluation.frozen import FeatureFiles, FrozenEvaluator, Pictures, digest_of, evaluation_folder, load_frozen
from evaluation.results import finish
from evaluation.settings import JudgedData
from evaluation.training import run_evaluator
from models.nearest import NearestRows, top_places
from models.pooled_level import PooledLevel
from utils.config import Section
from utils.distributed import all_reduce_sum, on_main, rank, world_size
from utils.errors import DataError, UserError
from utils.progress import ProgressBar

# Test images that are compared at a time with a chunk of the training images.
_QUERIES = 1024


class KnnData(JudgedData):
    train_split: str = Field("train", description="Whose images are neighbours.")
    test_split: str = Field("val", description="Whose images are classified.")


class Neighbours(Section):
    counts: list[Annotated[int, Field(ge=1)]] = Field(
        [20, 200], min_length=1, description="Numbers of neighbours; each gives a score of its own."
    )
    temperature: float = Field(0.07, gt=0, description="A neighbour of cosine s votes with exp(s / this).")


class KnnConfig(FrozenEvaluator):
    data: KnnData
    knn: Neighbours = Neighbours()


def evaluate(config: KnnConfig, arguments: argparse.Namespace, device: torch.device) -> None:
    train, test = on_main(lambda: _find(config.data))
    classes, (train_labels, test_labels) = class_labels(train, test)
    largest = max(config.knn.counts)
    if largest > len(train):
        raise UserError(f"knn.counts: {largest}, but there are {len(train)} images in {train.root}")
    settings = config.features
    with evaluation_folder("knn", config, arguments, keep=settings.keep) as folder:
        train_pictures, test_pictures = (
            Pictures(images.path, len(images), size=settings.size, crop=settings.crop) for images in (train, test)
        )
        trunk, digest = load_frozen(config, train_pictures, device=device)
        network = PooledLevel(trunk, level=settings.level, window=settings.window)
        work = folder / "work" / digest_of(digest, settings.made_of, train.listing_hash, test.listing_hash)
        options = {"batch_size": config.data.val_batch_size, "workers": config.data.data_workers, "device": device}
        bank = FeatureFiles(network, train_pictures, work / "train", desc="train images", **options)
        queries = FeatureFiles(network, test_pictures, work / "test", desc="test images", **options)
        own = np.arange(rank(), len(test), world_size())
        ranked = classify(
            torch.from_numpy(queries.rows(own)).to(device),
            bank,
            train_labels,
            num_classes=len(classes),
            counts=config.knn.counts,
            temperature=config.knn.temperature,
        )
        metrics = _accuracies(ranked, test_labels[own], num_classes=len(classes), total=len(test))
        details = {"classes": len(classes), "train_images": len(train), "test_images": len(test)}
        finish(folder, "knn", config, arguments, metrics, details=details)


def _find(data: KnnData) -> tuple[ImageList, ImageList]:
    train, test = (find_images(data.dir, split=split) for split in (data.train_split, data.test_split))
    if train.root == test.root:
        raise DataError(
            f"{data.dir}: {data.train_split} and {data.test_split} are the same images; data.dir must hold a folder of each"
        )
    return train, test


@torch.no_grad()
def classify(
    queries: Tensor,
    bank: Iterable[np.ndarray],
    labels: np.ndarray,
    *,
    num_classes: int,
    counts: Sequence[int],
    temperature: float,
) -> dict[int, Tensor]:
    """The classes of some images, by the votes of those most like them.

    Args:
        queries: (Q, D) rows of length one.
        bank: (n, D) rows of length one, part by part; what is held at a time is one part and the neighbours found so far.
        labels: (N,) int64, the class of every row of the bank.
        num_classes: C.
        counts: numbers of neighbours, at most N.
        temperature: a neighbour of cosine s votes for its class with exp(s / temperature).
    Returns:
        For every count (Q, at most 5) int64 classes, most votes first; of equal ones the lower first.
    Source: Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination, CVPR 2018, section 3.4.
    """
    labels = torch.from_numpy(labels).to(queries.device)
    similarity, neighbours = _nearest(queries, bank, total=len(labels), count=max(counts))
    ranked = {}
    for count in counts:
        # A factor that all share changes no order, and keeps low temperatures finite.
        weight = torch.exp((similarity[:, :count] - similarity[:, :1]) / temperature)
        parts = zip(weight.split(_QUERIES), labels[neighbours[:, :count]].split(_QUERIES))
        best = [
            top_places(votes.new_zeros(len(votes), num_classes).scatter_add_(1, voted, votes), min(5, num_classes))
            for votes, voted in parts
        ]
        ranked[count] = torch.cat(best) if best else neighbours.new_zeros(0, min(5, num_classes))
    return ranked


def _nearest(queries: Tensor, bank: Iterable[np.ndarray], *, total: int, count: int) -> tuple[Tensor, Tensor]:
    """(Q, count) cosines and places in the bank of the nearest rows, nearest first, ties to the lower place."""
    found = [NearestRows(part, count=count) for part in queries.split(_QUERIES)]
    done = 0
    with ProgressBar(total, desc="neighbours among train images") as bar:
        for part in bank:
            rows = torch.from_numpy(part).to(queries.device)
            for one in found:
                one.add(rows)
            done += len(rows)
            bar.update(done)
    return torch.cat([one.values for one in found]), torch.cat([one.places for one in found])


def _accuracies(ranked: Mapping[int, Tensor], labels: np.ndarray, *, num_classes: int, total: int) -> dict[str, float]:
    """Shares of all processes' test images whose class is first, or among the first five where there are more classes."""
    metrics = {}
    for count, classes in ranked.items():
        right = classes == torch.from_numpy(labels).to(classes.device)[:, None]
        for top in (1, 5):
            if top == 1 or top < num_classes:
                metrics[f"top-{top}, k={count}"] = all_reduce_sum(right[:, :top].any(1).sum()).item() / total
    return metrics


def main(argv: list[str] | None = None) -> int:
    return run_evaluator("knn", KnnConfig, evaluate, description=__doc__, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
