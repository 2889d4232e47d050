"""A linear classifier on a backbone, frozen or trained along."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbone import Trunk
from utils.method import Output, Progress


class Classifier(nn.Module):
    """Classes of whole images, read off the mean of C5 by a linear layer.

    Args:
        backbone: trunk giving {..., "c5": (N, D, h, w)}.
        num_classes: C.
        frozen: nothing of the backbone changes, its BatchNorm statistics neither; False trains it along.
        standardise: a BatchNorm without weights of its own before the linear layer, so that one learning rate fits features
            of any size.
    Source: the linear evaluation of MoCo (He et al., 2020), with weights that begin as a normal of 0.01; `standardise` is that of
        OpenSelfSup, by which ORL is judged.
    """

    def __init__(self, backbone: Trunk, *, num_classes: int, frozen: bool, standardise: bool = False):
        super().__init__()
        self.backbone, self._frozen = backbone.requires_grad_(not frozen), frozen
        channels = backbone.levels["c5"].channels
        self.norm = nn.BatchNorm1d(channels, affine=False) if standardise else nn.Identity()
        self.linear = nn.Linear(channels, num_classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        if self._frozen:
            self.backbone.eval()
        return self

    def before_step(self, progress: Progress) -> None: ...

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> Output:
        """`images` (B, 3, S, S) normalised, `classes` (B,) int64."""
        scores, classes = self.classify(batch["images"]), batch["classes"]
        correct = (scores.detach().argmax(1) == classes).float().mean()
        return Output({"cross_entropy": F.cross_entropy(scores.float(), classes)}, {"accuracy": correct})

    def after_step(self, progress: Progress) -> None: ...

    def classify(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) normalised -> (B, C) scores."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            features = self.backbone(images)["c5"].mean((2, 3))
        return self.linear(self.norm(features))
