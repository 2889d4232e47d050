"""Image classification on VOC by linear SVMs on frozen features: all training images, or a few of each class.

    python -m evaluation.svm --cfg voc07 --weights RUN_OR_CHECKPOINT --set data.dir=VOCdevkit/VOC2007
    python -m evaluation.svm --cfg voc07_lowshot --weights RUN_OR_CHECKPOINT --set data.dir=VOCdevkit/VOC2007
    torchrun --nproc_per_node 8 -m evaluation.svm ...

Classes are shared out over processes, and over the cores of each; a stopped job goes on at the classes that are missing.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
import sys
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from data.ragged import save_array
from data.voc import VOC_CLASSES, VocFolder
from evaluation.frozen import FeatureFiles, FrozenEvaluator, Pictures, digest_of, evaluation_folder, load_frozen
from evaluation.linear_svm import SvmSettings
from evaluation.results import finish
from evaluation.settings import JudgedData
from evaluation.svm_classes import FewShots, SvmClasses
from evaluation.training import run_evaluator
from models.pooled_level import PooledLevel
from utils.config import Section
from utils.distributed import barrier, on_main
from utils.errors import DataError

Count = Annotated[int, Field(ge=1)]


class SvmData(JudgedData):
    train_split: str = Field("trainval", description="List of ImageSets/Main that SVMs are fitted to.")
    test_split: str = Field("test", description="List that they are judged on.")
    classes: list[str] = Field(list(VOC_CLASSES), min_length=2, description="Names of the classes.")


class Svm(Section):
    costs: list[Annotated[float, Field(gt=0)]] = Field(min_length=1, description="Costs among which one is chosen.")
    folds: int = Field(3, ge=2, description="Of the cross-validation that chooses the cost.")
    positive_weight: float = Field(2, gt=0, description="Weight of images that show the class; others have 1.")
    tolerance: float = Field(1e-4, gt=0, description="The solver stops below it.")
    max_iter: int = Field(2000, ge=1, description="The solver stops after so many iterations.")
    difficult: Literal["negative", "left_out"] = Field(
        "negative",
        description="Training images whose label is difficult to tell; testing always leaves them out. Negative as released.",
    )
    processes: int | None = Field(
        None, ge=1, description="Processes that fit, of each that torchrun starts; empty takes its share of the cores."
    )


class LowShot(Section):
    shots: list[Count] = Field(
        [1, 2, 4, 8, 16, 32, 64, 96], min_length=1, description="Training images that show a class."
    )
    samples: int = Field(5, ge=1, description="Independent draws of them.")


class SvmConfig(FrozenEvaluator):
    data: SvmData
    svm: Svm
    low_shot: LowShot | None = Field(None, description="Empty fits to all training images.")


def evaluate(config: SvmConfig, arguments: argparse.Namespace, device: torch.device) -> None:
    voc = VocFolder(config.data.dir, config.data.classes)
    splits = {
        "train": on_main(lambda: voc.image_labels(config.data.train_split)),
        "test": on_main(lambda: voc.image_labels(config.data.test_split)),
    }
    if set(splits["train"][0]) & set(splits["test"][0]):
        raise DataError(f"{voc.root}: {config.data.train_split} and {config.data.test_split} share images")
    with evaluation_folder("svm", config, arguments, keep=config.features.keep) as folder:
        work = _embed(config, voc, splits, folder / "work", device)
        labels = {split: labels for split, (_, labels) in splits.items()}
        fitted = config.svm.model_dump(exclude={"processes"})
        key = digest_of(fitted, config.low_shot, config.seed, *(part.tobytes() for part in labels.values()))
        jobs = SvmClasses(
            work,
            work / f"classes-{key}",
            voc.classes,
            train_labels=labels["train"],
            test_labels=labels["test"],
            settings=SvmSettings(**config.svm.model_dump(exclude={"difficult", "processes"}), seed=config.seed),
            difficult=config.svm.difficult,
            low_shot=config.low_shot and FewShots(tuple(config.low_shot.shots), config.low_shot.samples),
            processes=config.svm.processes,
        )
        on_main(jobs.check)
        jobs.run()
        barrier()
        metrics, details = jobs.summary()
        finish(folder, "svm", config, arguments, metrics, details=details)


def _embed(
    config: SvmConfig,
    voc: VocFolder,
    splits: dict[str, tuple[list[str], np.ndarray]],
    work: Path,
    device: torch.device,
) -> Path:
    """train.npy and test.npy, (N, D) float64 rows of length one; in a folder for what they were made of."""
    settings = config.features
    pictures = {
        split: Pictures(
            [voc.image_path(name) for name in names].__getitem__, len(names), size=settings.size, crop=settings.crop
        )
        for split, (names, _) in splits.items()
    }
    trunk, digest = load_frozen(config, pictures["train"], device=device)
    network = PooledLevel(trunk, level=settings.level, window=settings.window)
    work = work / digest_of(digest, settings.made_of, *(names for names, _ in splits.values()))
    for split in splits:
        files = FeatureFiles(
            network,
            pictures[split],
            work / split,
            batch_size=config.data.val_batch_size,
            workers=config.data.data_workers,
            device=device,
            desc=f"{split} images",
        )
        # One file, which all processes that fit map into memory.
        on_main(lambda: save_array(work / f"{split}.npy", np.concatenate(list(files)).astype(np.float64)))
    return work


def main(argv: list[str] | None = None) -> int:
    return run_evaluator("svm", SvmConfig, evaluate, description=__doc__, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
