"""What a detector says of each proposal: its class, its box and its mask."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import roi_align

from models.backbone import Trunk

Norm = Callable[[int], nn.Module]
Targets = list[dict[str, Tensor]]


class Detections(NamedTuple):
    """What was found in an image, best first."""

    boxes: Tensor  # (n, 4) pixels of the network's image
    scores: Tensor  # (n,) in [0, 1]
    labels: Tensor  # (n,) int64, from 0
    masks: Tensor | None  # (n, M, M) in [0, 1], over the box


class RegionPool(nn.Module):
    """Cuts boxes out of levels of features, each out of the coarsest that still has `cells` cells along it.

    Args:
        strides: {level: pixels a cell}, the finest first; one level alone serves all boxes.
        size: cells of the result along a side.
        cells: 14 gives the levels of FPN's equation 1, where 224 pixels go to the level of stride 16.
    Source: RoIAlign of Mask R-CNN; FPN, section 4.2; as many samples as a cell has pixels, half a pixel aligned, as
    detectron2 has it.
    """

    def __init__(self, strides: dict[str, int], *, size: int, cells: float = 14):
        super().__init__()
        self.strides, self.size, self.cells = dict(strides), size, cells

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor]) -> Tensor:
        """{level: (B, D, h, w)} and B tensors (n, 4) in pixels -> (sum of n, D, size, size), image by image."""
        image = torch.cat([one.new_full((len(one), 1), place) for place, one in enumerate(boxes)])
        rois = torch.cat([image, torch.cat(boxes)], dim=1)
        options = {"output_size": self.size, "sampling_ratio": -1, "aligned": True}
        if len(self.strides) == 1:
            ((level, stride),) = self.strides.items()
            return roi_align(features[level], rois, spatial_scale=1 / stride, **options)
        side = (rois[:, 3:] - rois[:, 1:3]).prod(1).sqrt()
        least = side.new_tensor([stride * self.cells for stride in self.strides.values()][1:])
        # A trifle more: 224 px must not fall below the level that begins there.
        chosen = (side[:, None] * (1 + 1e-6) >= least).sum(1)
        first = next(iter(features.values()))
        pooled = first.new_zeros(len(rois), first.shape[1], self.size, self.size)
        for place, (level, stride) in enumerate(self.strides.items()):
            rows = (chosen == place).nonzero()[:, 0]
            own = roi_align(features[level], rois[rows], spatial_scale=1 / stride, **options)
            pooled.index_copy_(0, rows, own.to(pooled.dtype))
        return pooled


def make_box_head(kind: str, channels: int, *, size: int, width: int, conv_width: int, norm: Norm | None) -> nn.Module:
    """`2fc`, or `4conv1fc` with a norm after each convolution: (R, channels, size, size) -> (R, width)."""
    convolutions, linears = {"2fc": ([], [width] * 2), "4conv1fc": ([conv_width] * 4, [width])}[kind]
    head = FastRCNNConvFCHead((channels, size, size), convolutions, linears, norm_layer=norm)
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
    return head


class LastStage(nn.Module):
    """The box head of a detector on C4: the trunk's last stage, a norm of its own, and the mean.

    Source: MoCo, section 4.2, and the released detection/train_net.py.
    """

    def __init__(self, trunk: Trunk):
        super().__init__()
        # In a tuple: the stage stays the trunk's, and its weights are saved once.
        self._stage = (trunk.layer4,)
        self.norm = nn.BatchNorm2d(trunk.levels["c5"].channels)

    def forward(self, pooled: Tensor) -> Tensor:
        """(R, D4, s, s) -> (R, D5)."""
        (stage,) = self._stage
        return self.norm(stage(pooled)).mean((2, 3))


class MaskBranch(nn.Module):
    """Four convolutions, twice the size, and a mask for every class; the class 0 is the background."""

    def __init__(self, channels: int, *, pool: RegionPool, width: int, classes: int, norm: Norm | None):
        super().__init__()
        self.pool = pool
        self.convolutions = MaskRCNNHeads(channels, [width] * 4, 1, norm_layer=norm)
        self.predictor = MaskRCNNPredictor(width, width, classes + 1)
        nn.init.normal_(self.predictor.mask_fcn_logits.weight, std=0.001)

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], labels: Tensor) -> Tensor:
        """(sum of n, M, M) logits of the boxes' masks, for the class that each has, counted from 1."""
        logits = self.predictor(self.convolutions(self.pool(features, boxes))).float()
        return logits[torch.arange(len(logits), device=logits.device), labels]


class RegionHeads(RoIHeads):
    """Classes, boxes and masks of proposals, on torchvision's matching, sampling and suppression.

    Args:
        pool, box_head: (features, boxes) -> (R, width).
        width: what `box_head` gives.
        classes: without the background.
        masks: None finds boxes alone.
        sampled: proposals of an image that are trained on, a quarter of them on objects where there are so many.
        score_threshold, per_image: detections with a lower score, and beyond so many, are left out.
    Source: Mask R-CNN, section 3. Differs from torchvision's: L1 distance of boxes and first weights as detectron2 has them;
    none of it but the convolutions in low precision.
    """

    def __init__(
        self,
        pool: RegionPool,
        box_head: nn.Module,
        *,
        width: int,
        classes: int,
        masks: MaskBranch | None,
        sampled: int,
        score_threshold: float,
        per_image: int,
    ):
        predictor = FastRCNNPredictor(width, classes + 1)
        for layer, spread in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=spread)
            nn.init.zeros_(layer.bias)
        super().__init__(
            pool,
            box_head,
            predictor,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=sampled,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=score_threshold,
            nms_thresh=0.5,
            detections_per_img=per_image,
        )
        self.masks = masks

    def losses(self, features: dict[str, Tensor], proposals: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """Losses of sampled proposals.

        Args:
            features: {level: (B, D, h, w)}.
            proposals: B tensors (P, 4).
            targets: B dicts with `boxes` (n, 4), `labels` (n,) from 1, and with masks `masks` (n, H, W).
        """
        proposals, matched, labels, wanted = self.select_training_samples(proposals, targets)
        scores, moves = self._classify(features, proposals)
        truth, wanted = torch.cat(labels), torch.cat(wanted)
        own = moves.view(len(moves), -1, 4)[torch.arange(len(truth), device=truth.device), truth]
        on_object = truth > 0
        distance = F.l1_loss(own[on_object], wanted[on_object], reduction="sum") / max(len(truth), 1)
        losses = {"loss_classes": F.cross_entropy(scores, truth), "loss_boxes": distance}
        if self.masks is not None:
            losses["loss_masks"] = self._mask_loss(features, proposals, matched, labels, targets)
        return losses

    def detect(
        self, features: dict[str, Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[Detections]:
        """What is in B images, whose boxes are cut to (height, width) of `sizes`."""
        scores, moves = self._classify(features, proposals)
        boxes, scores, labels = self.postprocess_detections(scores, moves, proposals, sizes)
        masks = [None] * len(boxes)
        if self.masks is not None:
            masks = self.masks(features, boxes, torch.cat(labels)).sigmoid().split([len(one) for one in boxes])
        return [Detections(b, s, label - 1, m) for b, s, label, m in zip(boxes, scores, labels, masks)]

    def _classify(self, features: dict[str, Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        scores, moves = self.box_predictor(self.box_head(self.box_roi_pool(features, boxes)))
        return scores.float(), moves.float()

    def _mask_loss(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        matched: list[Tensor],
        labels: list[Tensor],
        targets: Targets,
    ) -> Tensor:
        on_object = [own > 0 for own in labels]
        boxes = [own[rows] for own, rows in zip(proposals, on_object)]
        if not any(map(len, boxes)):
            # BatchNorm, perhaps of all processes together, needs a region to look at even where there is no object.
            anywhere = [boxes[0].new_tensor([[0.0, 0.0, 1.0, 1.0]]), *boxes[1:]]
            return 0 * self.masks(features, anywhere, labels[0].new_ones(1)).sum()
        logits = self.masks(features, boxes, torch.cat([own[rows] for own, rows in zip(labels, on_object)]))
        truth = [
            _cut_masks(target["masks"], own[rows], box, size=logits.shape[-1])
            for target, own, rows, box in zip(targets, matched, on_object, boxes)
        ]
        return F.binary_cross_entropy_with_logits(logits, torch.cat(truth))


def _cut_masks(masks: Tensor, chosen: Tensor, boxes: Tensor, *, size: int) -> Tensor:
    """(n, H, W) masks, the rows `chosen` (R,), inside `boxes` (R, 4) -> (R, size, size), 0 or 1."""
    if not len(boxes):
        return boxes.new_zeros(0, size, size)
    rois = torch.cat([chosen[:, None].to(boxes), boxes], dim=1)
    cut = roi_align(
        masks[:, None].to(boxes), rois, output_size=size, spatial_scale=1.0, sampling_ratio=-1, aligned=True
    )
    return (cut[:, 0] >= 0.5).to(boxes)
