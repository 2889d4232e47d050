"""BYOL: one view of an image predicts what a slow average of the network says of another view.

Source: Bootstrap Your Own Latent (Grill et al., NeurIPS 2020), figure 2 and section 3; as ORL's first stage trains it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from losses.byol import masked_byol_loss
from models.momentum import make_target, update_target
from models.views import by_view, fold_views
from utils.method import Output, Progress


class BYOL(nn.Module):
    """Bootstrap between the two views of an image.

    Args:
        backbone: trunk giving {"c2": ..., "c5": ...}.
        projector, predictor: (N, D of c5) -> (N, d), and (N, d) -> (N, d).
        momentum: momentum of the target network at a Progress.
        joint_views: BatchNorm sees both views together, or each on its own, as BYOL and ORL have it.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        predictor: nn.Module,
        *,
        momentum: Callable[[Progress], float],
        joint_views: bool = False,
    ):
        super().__init__()
        self.backbone, self.projector, self.predictor = backbone, projector, predictor
        self.target = make_target(backbone, projector)
        self.momentum, self.joint_views = momentum, joint_views

    def before_step(self, progress: Progress) -> None:
        pass

    def after_step(self, progress: Progress) -> None:
        # The target moves towards the weights that the optimiser has just made.
        update_target(self.target, self.backbone, self.projector, momentum=self.momentum(progress))

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> Output:
        """One comparison of two views.

        Args:
            batch: images (B, 2, 3, S, S) normalised.
            generator: not needed: nothing is drawn here.
        Returns:
            The loss, in [0, 8]: both directions added, as published.
        """
        online = (self.backbone, self.projector)
        loss = bootstrap_loss(online, self.target, self.predictor, batch["images"], joint_views=self.joint_views)
        return Output({"loss": loss}, {})


def bootstrap_loss(
    online: tuple[nn.Module, nn.Module],
    target: nn.ModuleList,
    predictor: nn.Module,
    pairs: Tensor,
    *,
    joint_views: bool,
) -> Tensor:
    """How far predictions of either view are from the target's projections of the other.

    Args:
        online: trunk and projector; gradients flow through them and `predictor`.
        target: their slow averages.
        pairs: (B, 2, 3, S, S) normalised views of what should be told alike.
        joint_views: BatchNorm sees both views together, or each on its own.
    Returns:
        Scalar in [0, 8]: the mean over pairs of 2 - 2 cos, both directions added.
    Source: BYOL, equation 2 and the symmetric loss after it.
    """
    views = fold_views(pairs)
    prediction = by_view(predictor, embed(online, views, joint_views=joint_views), joint=joint_views)
    with torch.no_grad():
        projection = embed(target, views, joint_views=joint_views)
    first, second = projection.chunk(2)
    return 2 * _mean_distance(prediction, torch.cat([second, first]))


def embed(networks: tuple[nn.Module, ...] | nn.ModuleList, views: Tensor, *, joint_views: bool) -> Tensor:
    """(2 B, 3, S, S) folded views -> (2 B, d) projections of their average-pooled features."""
    backbone, projector = networks
    return by_view(lambda view: projector(backbone(view)["c5"].mean((2, 3))), views, joint=joint_views)


def _mean_distance(prediction: Tensor, target: Tensor) -> Tensor:
    weight = torch.ones(len(prediction), 1, device=prediction.device)
    return masked_byol_loss(prediction[:, None], target[:, None], weight)
