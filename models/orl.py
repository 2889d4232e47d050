"""ORL: BYOL on whole images, on a box of an image and its jitter, and on a box and its match in a neighbouring image.

Source: Unsupervised Object-Level Representation Learning from Scene Images (Xie et al., NeurIPS 2021), figure 2 and section 3.3.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from models.byol import bootstrap_loss
from models.momentum import make_target, update_target
from utils.method import Output, Progress

BRANCHES = ("global", "intra", "inter")


class ORL(nn.Module):
    """Bootstrap on three kinds of pairs: one backbone, one projector, a predictor for each.

    Args:
        backbone: trunk giving {"c2": ..., "c5": ...}.
        projector: (N, D of c5) -> (N, d).
        predictors: one (N, d) -> (N, d) for each of BRANCHES.
        weights: of the three losses, by the same names.
        momentum: momentum of the target network at a Progress.
        joint_views: BatchNorm sees both views of a kind together, or each on its own, as published. Kinds never share it.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        predictors: dict[str, nn.Module],
        *,
        weights: dict[str, float],
        momentum: Callable[[Progress], float],
        joint_views: bool = False,
    ):
        super().__init__()
        self.backbone, self.projector = backbone, projector
        self.predictors = nn.ModuleDict({branch: predictors[branch] for branch in BRANCHES})
        self.target = make_target(backbone, projector)
        self.weights, self.momentum, self.joint_views = weights, momentum, joint_views

    def before_step(self, progress: Progress) -> None:
        pass

    def after_step(self, progress: Progress) -> None:
        # The target moves towards the weights that the optimiser has just made.
        update_target(self.target, self.backbone, self.projector, momentum=self.momentum(progress))

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> Output:
        """One comparison of each kind.

        Args:
            batch: images (B, 2, 3, S, S), two views of an image, and patches (B, 4, 3, P, P): a box of the image and its
                jitter, a box of the image and its match in a neighbour. All normalised.
            generator: not needed: nothing is drawn here.
        Returns:
            `loss_global`, `loss_intra` and `loss_inter`, each in [0, 8] before its weight.
        """
        intra, inter = batch["patches"].split(2, dim=1)
        online = (self.backbone, self.projector)
        losses = {
            f"loss_{branch}": self.weights[branch]
            * bootstrap_loss(online, self.target, self.predictors[branch], pairs, joint_views=self.joint_views)
            for branch, pairs in zip(BRANCHES, (batch["images"], intra, inter))
        }
        return Output(losses, {})
