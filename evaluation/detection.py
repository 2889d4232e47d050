"""Object detection and instance segmentation: fine-tune Faster or Mask R-CNN on COCO or VOC, and measure average precision.

python -m evaluation.detection --cfg coco_moco_1x --weights runs/resim/TIME
torchrun --nproc_per_node=8 -m evaluation.detection --cfg coco_detcon_24k --weights r2o.pth

The papers' COCO protocols differ, so that their numbers do not compare: coco_detcon_24k (R2O, DetCon-B),
coco_moco_1x and _2x (ReSim), coco_orl_1x (ORL); voc_moco_24k is VOC 07+12 of MoCo and ReSim.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
import logging
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from data.coco_objects import coco_path, read_coco, require_scorable
from data.detection_views import Collate, TrainViews, WholeViews
from data.loader import Loader
from data.object_sets import ObjectSet, require_equal_classes
from data.photometric import normalise
from data.sampler import EpochSampler
from data.voc_objects import read_voc
from evaluation.backbones import load_backbone
from evaluation.calibration import recalibrate_norm
from evaluation.checkpoints.reading import read_checkpoint
from evaluation.coco_ap import Found, Scores, coco_ap
from evaluation.detection_config import DetectionConfig
from evaluation.judging import judged_batches, judging
from evaluation.paste import paste_masks
from evaluation.results import finish
from evaluation.training import run_evaluator, share_statistics, train_method
from evaluation.voc_ap import voc_ap
from models.detectors import Detector, make_detector
from models.fpn import FPN
from models.region_heads import Detections
from utils.distributed import gather_objects, on_main, rank, world_size
from utils.errors import UserError
from utils.seeding import torch_generator

_log = logging.getLogger(__name__)


class Sets(NamedTuple):
    train: ObjectSet
    test: ObjectSet


def evaluate(config: DetectionConfig, arguments: argparse.Namespace, device: torch.device) -> None:
    """Train, judge, write down."""
    data = config.data
    # Batches come in ever new sizes, for each of which the fastest kernels would be looked for.
    torch.backends.cudnn.benchmark = False
    sets = on_main(lambda: read_sets(config))
    method = build_detector(config, classes=len(sets.train.classes))
    collate = Collate(divisor=method.backbone.levels["c5"].stride)
    views = TrainViews(
        sets.train,
        sizing=data.train_sizing,
        flip_probability=data.flip_probability,
        masks=config.model.masks,
        seed=config.seed,
    )
    trained = train_method("detection", method, views, config, arguments, device, prepare=prepare, collate=collate)
    with judging():
        settle_norms(method, views, collate, config, device)
        found = detect_all(method, WholeViews(sets.test, sizing=data.test_sizing), collate, config, device)
        scores = on_main(lambda: score(config, sets.test, found))
    details = {
        "images": len(sets.test),
        "detections": sum(len(one.scores) for one in found.values()),
        "classes": scores.classes,
    }
    finish(trained.folder, "detection", config, arguments, scores.metrics, details=details, steps=trained[1:])


def read_sets(config: DetectionConfig) -> Sets:
    """What to train and to test on.

    Raises:
        DataError: files are missing or damaged, or the two name other classes.
    """
    data = config.data
    if data.layout == "coco":
        train = read_coco(data.dir, data.train[0], masks=config.model.masks, keep_empty=data.keep_empty)
        # The test's objects are pycocotools' own affair.
        require_scorable(coco_path(data.dir, data.val), masks=config.model.masks)
        test = read_coco(data.dir, data.val, masks=False, keep_empty=True)
    else:
        train = read_voc(data.dir, data.train, classes=data.classes, keep_empty=data.keep_empty)
        test = read_voc(data.dir, [data.val], classes=data.classes, keep_empty=True)
    require_equal_classes(train, test)
    return Sets(train, test)


def build_detector(config: DetectionConfig, *, classes: int) -> Detector:
    """The detector around the backbone that is judged; with `model.neck` its pyramid too."""
    trunk = load_backbone(config.model, seed=config.seed)
    try:
        method = make_detector(trunk, config.model, classes=classes)
    except ValueError as error:
        raise UserError(str(error)) from error
    if config.model.neck:
        weights = config.model.weights
        if weights is None or Path(weights).is_dir():
            raise UserError("model.neck: the pyramid is in a checkpoint, not in backbone.pth: give one as --weights")
        load_neck(method.neck.fpn, read_checkpoint(weights, network=config.model.network).neck, where=weights)
    return method


def load_neck(fpn: FPN, neck: dict[str, torch.Tensor], *, where: str) -> None:
    """Begin a pyramid with another's weights; levels that the other lacks keep theirs.

    Args:
        neck: as evaluation.checkpoints.reading.Weights names it; a bias has no place before a norm, nor a norm before a bias.
    Raises:
        UserError: there is none, or it has other channels.
    """
    own = fpn.state_dict()
    # A convolution with a norm is a pair of modules here, "0" and "1".
    names = {name.replace(".0.weight", ".weight").replace(".1.", ".norm."): name for name in own}
    taken = {names[name]: value for name, value in neck.items() if name in names}
    if not taken:
        raise UserError(f"model.neck: {where} holds no feature pyramid; set it to false")
    other = [name for name, value in taken.items() if value.shape != own[name].shape]
    if other:
        sizes = f"{tuple(taken[other[0]].shape)} there and {tuple(own[other[0]].shape)} here"
        raise UserError(
            f"model.neck: {where}: {other[0]} is {sizes}; set model.fpn_channels to the pretrained pyramid's"
        )
    fpn.load_state_dict(own | taken)
    _log.info(
        "the pyramid begins with %d tensors of %s; without a place: %d", len(taken), where, len(neck) - len(taken)
    )


def prepare(batch: dict[str, Any]) -> dict[str, Any]:
    """Normalise a batch's images, on the device."""
    return batch | {"images": normalise(batch["images"].float() / 255)}


def settle_norms(
    method: Detector, views: TrainViews, collate: Collate, config: DetectionConfig, device: torch.device
) -> None:
    """Leave the detector in eval mode, with BatchNorm statistics estimated anew where the config says so."""
    if config.model.norm_steps:
        sampler = EpochSampler(
            len(views),
            batch_size=config.data.train_batch_size,
            world_size=world_size(),
            rank=rank(),
            # An order, and views, that training has not seen.
            seed=config.seed + 1,
        )
        loader = Loader(views, sampler, workers=config.data.data_workers, device=device, collate=collate)
        recalibrate_norm(_Losses(method), _with_generators(loader, config))
        share_statistics(method)
    method.eval()


class _Losses(nn.Module):
    """A method of one argument, as `recalibrate_norm` calls it."""

    def __init__(self, method: Detector):
        super().__init__()
        self.method = method

    def forward(self, arguments: tuple[dict, torch.Generator]) -> None:
        self.method(*arguments)


def _with_generators(loader: Loader, config: DetectionConfig) -> Iterator[tuple[dict, torch.Generator]]:
    for step, batch in enumerate(islice(loader, config.model.norm_steps)):
        yield prepare(batch), torch_generator(config.seed + 1, step, 0, rank())


def detect_all(
    method: Detector, views: WholeViews, collate: Collate, config: DetectionConfig, device: torch.device
) -> dict[int, Found]:
    """Image id -> what is found in it, of all processes' images, on every process."""
    own = {}
    batches = judged_batches(
        views,
        batch_size=config.data.val_batch_size,
        workers=config.data.data_workers,
        device=device,
        collate=collate,
        desc="images",
    )
    for batch in batches:
        images = prepare({"images": batch["images"].to(device, non_blocking=True)})["images"]
        for index, size, original, one in zip(
            batch["indices"], batch["sizes"], batch["originals"], method.detect(images, batch["sizes"])
        ):
            own[int(views.objects.ids[index])] = in_image(one, size, original)
    # One dictionary: no image is in two processes' shares.
    return {image: one for share in gather_objects(own) for image, one in share.items()}


def in_image(found: Detections, size: tuple[int, int], original: tuple[int, int]) -> Found:
    """Detections in the network's image of `size` as ones in the file's of `original`, (height, width) each."""
    (h, w), (height, width) = size, original
    boxes = found.boxes.double().cpu() * torch.tensor([width / w, height / h] * 2, dtype=torch.float64)
    masks = None if found.masks is None else paste_masks(found.masks.cpu(), boxes, height=height, width=width)
    return Found(boxes.numpy(), found.scores.cpu().numpy(), found.labels.cpu().numpy(), masks)


def score(config: DetectionConfig, test: ObjectSet, found: dict[int, Found]) -> Scores:
    """Average precision by the rules of the dataset."""
    if config.data.layout == "coco":
        return coco_ap(coco_path(config.data.dir, config.data.val), found)
    truths = {int(number): test.objects(index) for index, number in enumerate(test.ids)}
    return voc_ap(truths, found, test.classes, eleven_points=config.data.eleven_points)


def main(argv: list[str] | None = None) -> int:
    return run_evaluator("detection", DetectionConfig, evaluate, description=__doc__, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
