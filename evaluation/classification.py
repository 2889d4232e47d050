"""Linear classification on frozen features, and fine-tuning on few labels, on a dataset in ImageNet's layout.

    python -m evaluation.classification --cfg linear_imagenet --weights runs/r2o/TIME --set data.dir=/imagenet
    torchrun --nproc_per_node=8 -m evaluation.classification --cfg finetune_imagenet_1pct --weights r2o.pth \\
        --set data.dir=/imagenet

top-1 and top-5 are of the images of `data.test_split`, each looked at once: its shorter side to 256, of which the middle 224.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
import sys

import torch
from pydantic import Field

from data.labelled_images import LabelledCentres, LabelledViews, class_labels, collate_centres
from data.listing import find_images
from data.photometric import prepare_views
from evaluation.backbones import load_backbone
from evaluation.calibration import recalibrate_on_dataset
from evaluation.frozen import Pictures
from evaluation.judging import judged_batches, judging
from evaluation.ordered_reading import prepare_images
from evaluation.results import finish
from evaluation.settings import Network, TrainData, TrainedEvaluator
from evaluation.training import run_evaluator, train_method
from models.classifier import Classifier
from utils.distributed import all_reduce_sum, on_main


class ClassifierModel(Network):
    frozen: bool = Field(True, description="Train the linear classifier alone; false trains the backbone along.")
    standardise: bool = Field(False, description="BatchNorm without weights before the linear classifier.")


class LabelledData(TrainData):
    split: str = Field("train", description="Which split to train on.")
    test_split: str = Field("val", description="Which split to test on.")
    subset: str = Field("", description="Train on these images: a text file, or a name in data/subsets/.")
    resize_size: int = Field(224, ge=8, description="Side of a view, in pixels.")
    min_crop: float = Field(0.08, gt=0, le=1, description="Smallest share of an image that a training view shows.")
    color_jitter: float = Field(0, ge=0, lt=1, description="Random brightness, contrast and saturation, each so much.")


class ClassificationConfig(TrainedEvaluator):
    model: ClassifierModel = ClassifierModel()
    data: LabelledData


def main(argv: list[str] | None = None) -> int:
    return run_evaluator("classification", ClassificationConfig, evaluate, description=__doc__, argv=argv)


def evaluate(config: ClassificationConfig, arguments: argparse.Namespace, device: torch.device) -> None:
    model, settings = config.model, config.data
    train = on_main(lambda: find_images(settings.dir, split=settings.split, subset=settings.subset))
    test = on_main(lambda: find_images(settings.dir, split=settings.test_split))
    classes, (train_labels, test_labels) = class_labels(train, test)
    backbone = load_backbone(model, seed=config.seed)
    if model.recalibrate_norm:
        pictures = Pictures(train.path, len(train), size=settings.resize_size, crop="centre")
        recalibrate_on_dataset(backbone, pictures, workers=settings.data_workers, device=device)
    method = Classifier(backbone, num_classes=len(classes), frozen=model.frozen, standardise=model.standardise)
    views = LabelledViews(
        train,
        train_labels,
        size=settings.resize_size,
        min_crop=settings.min_crop,
        jitter=settings.color_jitter,
        seed=config.seed,
    )
    trained = train_method("classification", method, views, config, arguments, device, prepare=prepare)
    centres = LabelledCentres(test, test_labels, size=settings.resize_size)
    with judging():
        metrics = judge_classifier(
            method, centres, device, batch_size=settings.val_batch_size, workers=settings.data_workers
        )
    details = {"classes": len(classes), "train_images": len(train), "test_images": len(test)}
    finish(trained.folder, "classification", config, arguments, metrics, details=details, steps=trained[1:])


def prepare(batch: dict) -> dict:
    """Colours and normalisation of a batch's only views, on the device."""
    return batch | {"images": prepare_views(batch["images"], batch["photometric"]).squeeze(1)}


@torch.no_grad()
def judge_classifier(
    method: Classifier, images: LabelledCentres, device: torch.device, *, batch_size: int, workers: int
) -> dict[str, float]:
    """Shares of all processes' images whose class has the highest score, and one of the five highest."""
    method.eval()
    hits = torch.zeros(2, dtype=torch.int64, device=device)
    for batch in judged_batches(
        images, batch_size=batch_size, workers=workers, device=device, collate=collate_centres, desc="test images"
    ):
        scores = method.classify(prepare_images(batch["images"], device))
        best = scores.topk(min(5, scores.shape[1]), dim=1).indices
        found = best == batch["classes"].to(device)[:, None]
        hits += torch.stack([found[:, 0].sum(), found.sum()])
    top1, top5 = (all_reduce_sum(hits).double() / len(images)).tolist()
    return {"top-1": top1, "top-5": top5}


if __name__ == "__main__":
    sys.exit(main())
