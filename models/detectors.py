"""Faster and Mask R-CNN on a trunk: on a feature pyramid, or on C4 with the trunk's last stage as the box head.

Source: Mask R-CNN (He et al., ICCV 2017), section 3; Feature Pyramid Networks, section 4; MoCo, section 4.2.
"""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbone import LEVELS, Trunk
from models.fpn import FPN
from models.proposals import Anchors, ProposalCounts, ProposalNetwork
from models.region_heads import Detections, LastStage, MaskBranch, RegionHeads, RegionPool, make_box_head
from utils.method import Output, Progress

_ABOVE = "above"


class DetectorSettings(Protocol):
    """What `make_detector` reads of a config."""

    detector: str  # "fpn" or "c4"
    masks: bool
    fpn_channels: int
    fpn_norm: bool
    box_head: str  # "2fc" or "4conv1fc"; of "fpn"
    head_norm: bool
    head_width: int
    conv_width: int
    anchor_sizes: list[list[float]]
    anchor_ratios: list[float]
    proposals_train: tuple[int, int]
    proposals_test: tuple[int, int]
    sampled_boxes: int
    pool_size: int
    pool_cells: float
    score_threshold: float
    detections_per_image: int


class Pyramid(nn.Module):
    """A feature pyramid over all levels of a trunk, and a level above it of which every second cell is kept."""

    last = "c5"

    def __init__(self, trunk: Trunk, *, channels: int, norm: bool):
        super().__init__()
        self.fpn = FPN(
            {name: trunk.levels[name].channels for name in LEVELS}, out_channels=channels, outputs=LEVELS, norm=norm
        )
        self.strides = {name: trunk.levels[name].stride for name in LEVELS}
        self.strides[_ABOVE] = 2 * self.strides["c5"]
        self.channels = channels

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        levels = self.fpn(features)
        # The finest first, whatever order the pyramid makes them in.
        return {name: levels[name] for name in LEVELS} | {_ABOVE: F.max_pool2d(levels["c5"], 1, stride=2)}


class C4(nn.Module):
    """C4 alone, as it is."""

    last = "c4"

    def __init__(self, trunk: Trunk):
        super().__init__()
        self.channels, stride = trunk.levels["c4"]
        self.strides = {"c4": stride}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"c4": features["c4"]}


class Detector(nn.Module):
    """A two-stage detector, as a method that the training loop takes.

    Args:
        backbone: the trunk.
        neck: its features -> {level: (B, D, h, w)}.
        proposals: see `ProposalNetwork`.
        heads: see `RegionHeads`.
    """

    def __init__(self, backbone: Trunk, neck: Pyramid | C4, proposals: ProposalNetwork, heads: RegionHeads):
        super().__init__()
        self.backbone, self.neck, self.proposals, self.heads = backbone, neck, proposals, heads

    def before_step(self, progress: Progress) -> None:
        pass

    def after_step(self, progress: Progress) -> None:
        pass

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> Output:
        """Losses of a batch.

        Args:
            batch: `images` (B, 3, H, W) normalised; `sizes`, B pairs; `boxes` (N, 4) in pixels, `labels` (N,) from 0 and, with
                masks, `masks` (N, H, W), of which the first `counts[0]` are the first image's.
            generator: draws which anchors and proposals are looked at.
        """
        targets, features = _split_targets(batch), self._features(batch["images"])
        # torchvision's samplers draw from the process' generators: here these begin with a number of this step's own.
        seed = int(torch.randint(2**62, (), generator=generator))
        images = batch["images"]
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            torch.manual_seed(seed)
            proposals, losses = self.proposals(features, batch["sizes"], targets)
            losses |= self.heads.losses(features, proposals, targets)
        return Output(losses, {})

    @torch.no_grad()
    def detect(self, images: Tensor, sizes: list[tuple[int, int]]) -> list[Detections]:
        """Find objects in normalised images (B, 3, H, W), of which each fills its (height, width) of `sizes`."""
        features = self._features(images)
        proposals, _ = self.proposals(features, sizes)
        return self.heads.detect(features, proposals, sizes)

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        return self.neck(self.backbone(images, last=self.neck.last))


def make_detector(trunk: Trunk, settings: DetectorSettings, *, classes: int) -> Detector:
    """Build a detector around a trunk.

    Args:
        classes: without the background.
    Raises:
        ValueError: settings that do not go together.
    """
    if settings.detector == "c4" and settings.masks:
        raise ValueError("model.masks: a detector on C4 finds boxes alone here; use model.detector: fpn")
    norm = nn.BatchNorm2d if settings.head_norm else None
    if settings.detector == "fpn":
        neck = Pyramid(trunk, channels=settings.fpn_channels, norm=settings.fpn_norm)
    else:
        neck = C4(trunk)
    strides = {level: stride for level, stride in neck.strides.items() if level != _ABOVE}
    pool = RegionPool(strides, size=settings.pool_size, cells=settings.pool_cells)
    if settings.detector == "fpn":
        width = settings.head_width
        sizes = {"size": settings.pool_size, "width": width, "conv_width": settings.conv_width}
        box_head = make_box_head(settings.box_head, neck.channels, **sizes, norm=norm)
    else:
        width, box_head = trunk.levels["c5"].channels, LastStage(trunk)
    masks = None
    if settings.masks:
        mask_pool = RegionPool(strides, size=2 * settings.pool_size, cells=settings.pool_cells)
        masks = MaskBranch(neck.channels, pool=mask_pool, width=settings.conv_width, classes=classes, norm=norm)
    anchors = Anchors(list(neck.strides.values()), settings.anchor_sizes, settings.anchor_ratios)
    counts = {"train": ProposalCounts(*settings.proposals_train), "test": ProposalCounts(*settings.proposals_test)}
    heads = RegionHeads(
        pool,
        box_head,
        width=width,
        classes=classes,
        masks=masks,
        sampled=settings.sampled_boxes,
        score_threshold=settings.score_threshold,
        per_image=settings.detections_per_image,
    )
    return Detector(trunk, neck, ProposalNetwork(neck.channels, anchors, **counts), heads)


def _split_targets(batch: dict[str, Any]) -> list[dict[str, Tensor]]:
    """Each image's objects, their labels from 1: 0 is the background."""
    parts = {"boxes": batch["boxes"], "labels": batch["labels"] + 1}
    if "masks" in batch:
        parts["masks"] = batch["masks"]
    split = {key: part.split(batch["counts"]) for key, part in parts.items()}
    return [{key: own[place] for key, own in split.items()} for place in range(len(batch["counts"]))]
