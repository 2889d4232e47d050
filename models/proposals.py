"""Where objects may be: anchors, and the network that scores and moves them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers


class ProposalCounts(NamedTuple):
    """How many of the best-scored proposals are kept: of each level before non-maximum suppression, of an image after it."""

    before: int
    after: int


class Anchors(nn.Module):
    """Boxes of fixed sizes and shapes around every cell of every level.

    Args:
        strides: pixels from one cell to the next, of each level from the finest.
        sizes: of each level, square roots of the anchors' areas in pixels.
        ratios: height / width.
    Source: Faster R-CNN, section 3.1. Differs from torchvision's: corners are not rounded and stay float32 under autocast, and
    strides are given, not guessed from the grid, so that images of any size will do; as detectron2 has it.
    """

    def __init__(self, strides: list[int], sizes: list[list[float]], ratios: list[float]):
        super().__init__()
        if len(sizes) != len(strides):
            raise ValueError(
                f"model.anchor_sizes: {len(sizes)} lists of sizes, but there are {len(strides)} levels of features"
            )
        self.strides = list(strides)
        for level, own in enumerate(sizes):
            self.register_buffer(f"cells_{level}", _around_zero(own, ratios), persistent=False)
        self.num_per_cell = len(sizes[0]) * len(ratios)
        if any(len(own) != len(sizes[0]) for own in sizes):
            raise ValueError("model.anchor_sizes: all levels must have equally many, since they share a head")

    def forward(self, grids: list[tuple[int, int]]) -> Tensor:
        """(h, w) of each level -> (A, 4) of all levels: by level, row, column, then anchor."""
        levels = []
        for level, ((h, w), stride) in enumerate(zip(grids, self.strides, strict=True)):
            cells = getattr(self, f"cells_{level}")
            y, x = (torch.arange(length, device=cells.device, dtype=cells.dtype) * stride for length in (h, w))
            y, x = torch.meshgrid(y, x, indexing="ij")
            shifts = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4)
            levels.append((shifts + cells).view(-1, 4))
        return torch.cat(levels)


class ProposalNetwork(RegionProposalNetwork):
    """Region proposals from a trunk's or a pyramid's levels, on torchvision's matching, sampling and suppression.

    Args:
        channels: of every level.
        anchors: see `Anchors`.
        train, test: how many proposals are kept.
    Source: Faster R-CNN, section 3.1. Differs from torchvision's: L1 distance of boxes, both losses divided by the number of
    anchors that an image is asked for, and none of it in low precision; as detectron2 has it.
    """

    SAMPLED = 256  # anchors an image, half of them on objects where there are so many

    def __init__(self, channels: int, anchors: Anchors, *, train: ProposalCounts, test: ProposalCounts):
        super().__init__(
            anchors,
            RPNHead(channels, anchors.num_per_cell),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=self.SAMPLED,
            positive_fraction=0.5,
            pre_nms_top_n={"training": train.before, "testing": test.before},
            post_nms_top_n={"training": train.after, "testing": test.after},
            nms_thresh=0.7,
        )

    def forward(
        self, features: dict[str, Tensor], sizes: list[tuple[int, int]], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Propose boxes.

        Args:
            features: {level: (B, D, h, w)} from the finest level.
            sizes: B pairs (height, width) of the images, without what fills up the batch.
            targets: in training, B dicts with `boxes` (n, 4).
        Returns:
            B tensors (P, 4), best first, without gradient, inside their image; and in training the losses.
        """
        levels = list(features.values())
        scores, moves = self.head(levels)
        counts = [score[0].numel() for score in scores]
        anchors = [self.anchor_generator([tuple(level.shape[-2:]) for level in levels])] * len(sizes)
        scores, moves = (part.float() for part in concat_box_prediction_layers(scores, moves))
        boxes = self.box_coder.decode(moves.detach(), anchors).view(len(sizes), -1, 4)
        proposals, _ = self.filter_proposals(boxes, scores, sizes, counts)
        if targets is None:
            return proposals, {}
        labels, matched = self.assign_targets_to_anchors(anchors, targets)
        wanted = self.box_coder.encode(matched, anchors)
        objectness, box = self.compute_loss(scores, moves, labels, wanted)
        return proposals, {"loss_objectness": objectness, "loss_proposal_boxes": box}

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The parent's, with detectron2's distance and divisor."""
        positive, negative = (torch.cat(part).bool() for part in self.fg_bg_sampler(labels))
        sampled, share = positive | negative, 1 / (self.SAMPLED * len(labels))
        truth, wanted = torch.cat(labels), torch.cat(regression_targets)
        loss = F.binary_cross_entropy_with_logits(objectness.flatten()[sampled], truth[sampled], reduction="sum")
        distance = F.l1_loss(pred_bbox_deltas[positive], wanted[positive], reduction="sum")
        return share * loss, share * distance


def _around_zero(sizes: list[float], ratios: list[float]) -> Tensor:
    """(S R, 4) boxes around (0, 0), by size, then shape."""
    size, ratio = torch.tensor(sizes, dtype=torch.float32), torch.tensor(ratios, dtype=torch.float32)
    height, width = (size[:, None] * side for side in (ratio.sqrt(), 1 / ratio.sqrt()))
    half = torch.stack([width, height], dim=-1).view(-1, 2) / 2
    return torch.cat([-half, half], dim=1)
