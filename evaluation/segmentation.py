"""Semantic segmentation: fine-tune a fully convolutional network on VOC or Cityscapes, and measure its mean IoU.

python -m evaluation.segmentation --cfg voc12aug_fcn --weights runs/detconb/TIME
torchrun --nproc_per_node=4 -m evaluation.segmentation --cfg cityscapes_fcn --weights r2o.pth
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.cityscapes import CityscapesFolder
from data.photometric import normalise
from data.segmentation_views import SegmentationSpec, SegmentationViews, WholeSegmentations, prepare_views
from data.segmented_images import SegmentedImages, cityscapes_examples, voc_examples
from data.voc import VOID, VocFolder
from evaluation.backbones import load_backbone
from evaluation.confusion import count_pairs, read_scores
from evaluation.judging import judged_batches, judging
from evaluation.results import finish
from evaluation.segmentation_config import Part, SegmentationConfig, SegmentationData, Slide
from evaluation.training import run_evaluator, train_method
from models.backbone import Trunk
from models.fcn import FCN, FCNHead, dilate
from utils.distributed import all_reduce_sum, on_main, world_size
from utils.errors import UserError
from utils.method import Output, Progress


class Segmenter(nn.Module):
    """An FCN as the training loop takes it."""

    def __init__(self, fcn: FCN, *, auxiliary_weight: float, divide_by_void: bool):
        super().__init__()
        self.fcn = fcn
        self._weights = {"head": 1.0, "auxiliary": auxiliary_weight}
        self._divide_by_void = divide_by_void

    @property
    def backbone(self) -> Trunk:
        return self.fcn.trunk

    def before_step(self, progress: Progress) -> None:
        pass

    def after_step(self, progress: Progress) -> None:
        pass

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> Output:
        """Losses of `images` (B, 3, H, W), normalised, with `segmentation` (B, H, W) uint8."""
        labels = batch["segmentation"].long()
        scores = self.fcn(batch["images"], generator)
        losses = {
            name: self._weights[name] * pixel_loss(score, labels, divide_by_void=self._divide_by_void)
            for name, score in scores.items()
        }
        known = labels != VOID
        right = (scores["head"].argmax(1) == labels) & known
        return Output(losses, {"pixel_accuracy": right.sum() / known.sum().clamp(min=1)})


def pixel_loss(scores: Tensor, labels: Tensor, *, divide_by_void: bool) -> Tensor:
    """Cross-entropy of pixels.

    Args:
        scores: (B, C, H, W), with gradient.
        labels: (B, H, W) int64, VOID for pixels that cost nothing.
        divide_by_void: the mean is over all pixels, else over those of all processes that are not void.
    Returns:
        Scalar; 0, with zero gradient, where all is void. Its mean over processes is the loss of all their images together.
    """
    total = F.cross_entropy(scores, labels, ignore_index=VOID, reduction="sum")
    if divide_by_void:
        return total / labels.numel()
    return total * world_size() / all_reduce_sum((labels != VOID).sum()).clamp(min=1)


def evaluate(config: SegmentationConfig, arguments: argparse.Namespace, device: torch.device) -> None:
    """Train, judge, write down."""
    data = config.data
    train = on_main(lambda: read_images(data, data.train))
    test = on_main(lambda: read_images(data, [data.test]))
    spec = SegmentationSpec(
        data.crop, data.size, data.scale, data.max_class_share, data.flip_probability, data.distortion
    )
    method = make_segmenter(config)
    trained = train_method(
        "segmentation",
        method,
        SegmentationViews(train, spec=spec, seed=config.seed),
        config,
        arguments,
        device,
        prepare=prepare_views,
    )
    with judging():
        counts = count_all(method.fcn, WholeSegmentations(test, size=data.size), config, device)
    scores = read_scores(counts)
    names = data.class_names
    details = {
        "images": len(test),
        "iou": {name: value for name, value in zip(names, scores.iou.tolist()) if value == value},
        "recall": {name: value for name, value in zip(names, scores.recall.tolist()) if value == value},
    }
    metrics = {"mIoU": scores.mean_iou, "mean accuracy": scores.mean_recall, "pixel accuracy": scores.accuracy}
    finish(trained.folder, "segmentation", config, arguments, metrics, details=details, steps=trained[1:])


def read_images(data: SegmentationData, parts: list[Part]) -> SegmentedImages:
    """The images of all parts, one after the other.

    Raises:
        DataError: folders, lists or files are missing.
    """
    if data.layout == "cityscapes":
        cityscapes = CityscapesFolder(data.dir)
        examples = [example for part in parts for example in cityscapes_examples(cityscapes, part.split)]
    else:
        voc = VocFolder(data.dir, data.classes)
        examples = [example for part in parts for example in voc_examples(voc, part.split, labels=part.labels)]
    return SegmentedImages(Path(data.dir), examples)


def make_segmenter(config: SegmentationConfig) -> Segmenter:
    """The network with the backbone's weights and new heads."""
    model, num_classes = config.model, len(config.data.class_names)
    try:
        trunk = dilate(load_backbone(model, seed=config.seed), output_stride=model.output_stride)
    except ValueError as error:
        raise UserError(str(error)) from error
    head = FCNHead(trunk.levels["c5"].channels, num_classes=num_classes, **model.head.model_dump())
    auxiliary = None
    if model.auxiliary is not None:
        settings = model.auxiliary.model_dump(exclude={"weight"})
        auxiliary = FCNHead(trunk.levels["c4"].channels, num_classes=num_classes, **settings)
    return Segmenter(
        FCN(trunk, head, auxiliary, align_corners=model.align_corners),
        auxiliary_weight=model.auxiliary.weight if model.auxiliary else 0.0,
        divide_by_void=config.loss.divide_by_void,
    )


@torch.no_grad()
def count_all(fcn: FCN, dataset: WholeSegmentations, config: SegmentationConfig, device: torch.device) -> Tensor:
    """(C, C) counts of all processes' pixels, rows the truth; see `count_pairs`."""
    fcn.eval()
    data, num_classes = config.data, len(config.data.class_names)
    total = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    batches = judged_batches(
        dataset,
        batch_size=data.val_batch_size,
        workers=data.data_workers,
        device=device,
        collate=lists,
        desc="images",
    )
    for batch in batches:
        for images, labels in equal_sizes(batch):
            labels = labels.to(device)
            predicted = predict(fcn, images.to(device), labels.shape[-2:], data.slide)
            total += count_pairs(predicted, labels, num_classes=num_classes)
    return all_reduce_sum(total)


def predict(fcn: FCN, images: Tensor, size: tuple[int, int], slide: Slide | None) -> Tensor:
    """(N, 3, h, w) uint8 images -> (N, H, W) classes, at the labels' size."""
    images = normalise(images.float() / 255)
    scores = fcn.slide(images, window=slide.window, step=slide.step) if slide else fcn(images)["head"]
    return fcn.enlarge(scores, size).argmax(1) if scores.shape[-2:] != size else scores.argmax(1)


def lists(items: list[dict]) -> dict[str, list]:
    """Items of any sizes, not stacked."""
    return {key: [item[key] for item in items] for key in items[0]}


def equal_sizes(batch: dict[str, list[Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The images and labels of a batch, stacked where their sizes agree."""
    groups: dict[tuple, list[tuple[Tensor, Tensor]]] = {}
    for image, labels in zip(batch["images"], batch["segmentation"]):
        groups.setdefault((image.shape, labels.shape), []).append((image, labels))
    for pairs in groups.values():
        images, labels = zip(*pairs)
        yield torch.stack(images), torch.stack(labels)


def main(argv: list[str] | None = None) -> int:
    return run_evaluator("segmentation", SegmentationConfig, evaluate, description=__doc__, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
