"""DetCon: regions of a view, given by masks made beforehand, told from the regions of all images in both views.

Source: Efficient Visual Pretraining with Contrastive Detection (Henaff et al., ICCV 2021), figure 2 and section 3.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from losses.byol import unit
from losses.detcon import detcon_loss, matched_share
from models.momentum import make_target, update_target
from models.pooling import count_distinct, majority_labels, pool_regions, region_masks, sample_regions
from models.views import by_view, fold_views, unfold_views
from utils.distributed import all_gather_rows, all_gather_with_grad, rank
from utils.method import Output, Progress


class DetCon(nn.Module):
    """Contrastive detection: DetCon-B with a predictor and a target network, DetCon-S without either.

    Args:
        backbone: trunk giving {"c2": ..., "c5": ...}.
        projector: (N, M, D of level) -> (N, M, d).
        predictor: (N, M, d) -> (N, M, d); None for DetCon-S, where one network sees both views and the gradient flows on
            both sides, as in SimCLR.
        neck: features of the trunk -> features, an FPN where masks finer than C5's grid are pooled.
        level: the neck's features that regions are pooled from.
        pool_size: side of that level's grid, onto which masks are brought.
        momentum: momentum of the target network at a Progress.
        temperature: of the loss.
        shared_regions: online and target network see one draw of regions, as in DeepMind's code; the PyTorch release
            draws twice.
        joint_views: BatchNorm sees both views together, as released, or each on its own.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        predictor: nn.Module | None,
        *,
        neck: nn.Module | None = None,
        level: str = "c5",
        pool_size: int = 7,
        momentum: Callable[[Progress], float],
        temperature: float = 0.1,
        shared_regions: bool = True,
        joint_views: bool = True,
    ):
        super().__init__()
        self.backbone, self.neck = backbone, neck or nn.Identity()
        self.projector, self.predictor = projector, predictor
        self.target = None if predictor is None else make_target(backbone, self.neck, projector)
        self.momentum, self.temperature = momentum, temperature
        self.level, self.pool_size = level, pool_size
        self.shared_regions, self.joint_views = shared_regions, joint_views

    def before_step(self, progress: Progress) -> None:
        # The target moves before it is used, as released: it averages the weights of the steps before this one.
        if self.target is not None:
            update_target(self.target, self.backbone, self.neck, self.projector, momentum=self.momentum(progress))

    def after_step(self, progress: Progress) -> None:
        pass

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> Output:
        """One comparison of two views.

        Args:
            batch: images (B, 2, 3, S, S) normalised; labels (B, 2, S, S) of the same views and their largest number
                `num_labels`; uniforms (B, 2, 2, M), by which M regions a view are drawn for either network.
            generator: not needed: regions are drawn by the batch's own numbers, whatever the number of processes.
        Returns:
            The loss, the mean number of regions in a view, and the share of drawn regions that the other view drew too.
        """
        cells = self.find_cells(batch)
        ids, target_ids = self.choose_regions(cells, batch["uniforms"])
        features, target_features = self._encode(fold_views(batch["images"]))
        loss = self._contrast(features, target_features, cells, ids, target_ids)
        return Output({"loss": loss}, self._describe(cells, ids, target_ids))

    def find_cells(self, batch: dict[str, Any]) -> Tensor:
        """(V B, P): the label that covers most of each of the P cells of a view's grid."""
        size = (self.pool_size, self.pool_size)
        return majority_labels(fold_views(batch["labels"]), num_labels=batch["num_labels"], size=size)

    def choose_regions(self, cells: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """(V B, M) twice: labels drawn among those of a view's cells, for the online and for the target network."""
        online, other = (fold_views(numbers) for numbers in uniforms.unbind(1))
        ids = self.draw_regions(cells, online)
        return ids, ids if self.shared_regions else self.draw_regions(cells, other)

    def draw_regions(self, cells: Tensor, uniforms: Tensor) -> Tensor:
        """(V B, M): labels drawn among a row's `cells` by its random numbers; with replacement, as DetCon's release does."""
        return sample_regions(cells, uniforms)

    def _encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """(V B, D, h, w) features that regions are pooled from: the online network's, and the target's if there is one."""
        features = self._features_of(self.backbone, self.neck, images)
        if self.target is None:
            return features, None
        backbone, neck, _ = self.target
        with torch.no_grad():
            return features, self._features_of(backbone, neck, images)

    def _features_of(self, backbone: nn.Module, neck: nn.Module, images: Tensor) -> Tensor:
        return by_view(lambda view: neck(backbone(view))[self.level], images, joint=self.joint_views)

    def _contrast(
        self, features: Tensor, target_features: Tensor | None, cells: Tensor, ids: Tensor, target_ids: Tensor
    ) -> Tensor:
        """Pool, project, predict and compare the regions that were chosen."""
        projection = self._project(self.projector, features, region_masks(cells, ids))
        if self.predictor is None:
            return self._compare(projection, all_gather_with_grad(unit(unfold_views(projection))), ids, ids)
        with torch.no_grad():
            target = self._project(self.target[2], target_features, region_masks(cells, target_ids))
            # Autocast's few bits travel; the unit vectors that they are scaled to, in float32, are the same either way.
            targets = unit(all_gather_rows(unfold_views(target)))
        return self._compare(self._predict(projection), targets, ids, target_ids)

    def _project(self, projector: nn.Module, features: Tensor, masks: Tensor) -> Tensor:
        return by_view(projector, pool_regions(features, masks), joint=self.joint_views)

    def _predict(self, projection: Tensor) -> Tensor:
        return by_view(self.predictor, projection, joint=self.joint_views)

    def _compare(self, prediction: Tensor, targets: Tensor, ids: Tensor, target_ids: Tensor) -> Tensor:
        prediction, ids, target_ids = (unfold_views(x) for x in (prediction, ids, target_ids))
        return detcon_loss(
            prediction,
            targets,
            ids,
            target_ids,
            temperature=self.temperature,
            offset=rank() * len(prediction),
        )

    def _describe(self, cells: Tensor, ids: Tensor, target_ids: Tensor) -> dict[str, Tensor]:
        matched = matched_share(unfold_views(ids), unfold_views(target_ids))
        return {"regions_per_view": count_distinct(cells).float().mean(), "matched_regions": matched}
