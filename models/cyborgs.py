"""CYBORGS: DetCon-B on scenes, whose regions are clusters of the model's own features, made again every few epochs.

The masks come with the batch; tools/bootstrap.py makes them between epochs.

Source: the released DetConB, main_cyborgs.py and VMFClusterLoss of CYBORGS: Contrastively Bootstrapping Object Representations
by Grounding in Segmentation (Wang et al., ECCV 2022).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from losses.byol import unit
from losses.vmf import matched_labels, vmf_loss
from models.detconb import DetCon
from models.levels import JOINED, JoinedLevels
from models.momentum import update_target
from models.pooling import sample_distinct_regions
from models.regions import kmeans
from models.views import fold_views
from utils.method import Output, Progress


@dataclass(frozen=True, kw_only=True)
class VMF:
    """How cells of the two views are clustered and drawn to their clusters, beside the comparison of regions.

    Args:
        weight: of the sum of its four terms.
        temperature: of each term.
        min_clusters, max_clusters: between them, both included, K is drawn anew at every step.
        every: it counts in every so many-th epoch; `every` = 2 in the second, the fourth, ...
        released: with the sign and the centroids of the release, and its belief that cluster k is the same in either view.
        max_iter: iterations of K-means at most.
    """

    weight: float
    temperature: float = 0.1
    min_clusters: int
    max_clusters: int
    every: int = 1
    released: bool = False
    max_iter: int = 20


class Clusters(NamedTuple):
    """The cells of one view of all images, in clusters."""

    centroids: Tensor  # (K, D); zeros where a cluster is empty
    labels: Tensor  # (B, h * w) int64 in [0, K)


class Cyborgs(DetCon):
    """DetCon-B whose regions are pooled from several levels at once and drawn without replacement, with clustering beside it.

    Args:
        backbone: trunk giving {"c2": ..., "c5": ...}.
        projector: (N, M, sum of the levels' D) -> (N, M, d).
        predictor: (N, M, d) -> (N, M, d).
        levels: levels of the trunk that are averaged onto the last one's grid and put side by side.
        pool_size: side of that grid.
        num_regions: regions drawn a view.
        momentum: momentum of the target network at a Progress.
        temperature: of the loss between regions.
        shared_regions: online and target network see one draw of regions; the release draws twice.
        joint_views: BatchNorm sees both views together, or each on its own, as released.
        vmf: the clustering loss; None for none, as the release has it by default.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        predictor: nn.Module,
        *,
        levels: tuple[str, ...] = ("c3", "c4", "c5"),
        pool_size: int,
        num_regions: int = 16,
        momentum: Callable[[Progress], float],
        temperature: float = 0.1,
        shared_regions: bool = True,
        joint_views: bool = False,
        vmf: VMF | None = None,
    ):
        super().__init__(
            backbone,
            projector,
            predictor,
            neck=JoinedLevels(levels),
            level=JOINED,
            pool_size=pool_size,
            momentum=momentum,
            temperature=temperature,
            shared_regions=shared_regions,
            joint_views=joint_views,
        )
        self.num_regions, self.vmf = num_regions, vmf
        self.clusters_now = False

    def before_step(self, progress: Progress) -> None:
        self.clusters_now = self.vmf is not None and (progress.epoch + 1) % self.vmf.every == 0

    def after_step(self, progress: Progress) -> None:
        # The target moves after the step, as released: it averages the weights of the steps before this one, and of this one.
        update_target(self.target, self.backbone, self.neck, self.projector, momentum=self.momentum(progress))

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> Output:
        """One comparison of two views.

        Args:
            batch: as DetCon's; `uniforms` (B, 2, 2, U) has a number for every cell of the grid and for every region drawn, and
                `replaced` (B,) bool says which images stand in for one that has a single label.
            generator: draws the number of clusters and their start.
        Returns:
            The loss between regions and, with `vmf`, the clustering loss `vmf`, 0 in epochs where it does not count; beside
            DetCon's metrics the share of images that stand in for others.
        """
        cells = self.find_cells(batch)
        ids, target_ids = self.choose_regions(cells, batch["uniforms"])
        features, target_features = self._encode(fold_views(batch["images"]))
        losses = {"loss": self._contrast(features, target_features, cells, ids, target_ids)}
        if self.vmf is not None:
            losses["vmf"] = self._cluster_loss(features, target_features, generator)
        metrics = self._describe(cells, ids, target_ids) | {"replaced_images": batch["replaced"].float().mean()}
        return Output(losses, metrics)

    def draw_regions(self, cells: Tensor, uniforms: Tensor) -> Tensor:
        """(V B, M): different labels of a row's `cells` where it has enough of them."""
        return sample_distinct_regions(cells, uniforms, count=self.num_regions)

    def _cluster_loss(self, features: Tensor, target_features: Tensor, generator: torch.Generator) -> Tensor:
        """Cells of either view drawn to their clusters in this view, and in the other."""
        if not self.clusters_now:
            # The sum of no features: zero, attached to them, whatever they are.
            return features[:0].float().sum()
        first, second = self.find_clusters(target_features, generator)
        options = {"temperature": self.vmf.temperature, "attract": not self.vmf.released}
        terms = []
        for cells, own, other in zip(features.chunk(2), (first, second), (second, first)):
            labels = own.labels
            terms.append(vmf_loss(cells, own.centroids, labels, **options))
            if not self.vmf.released:
                labels = matched_labels(labels, own.centroids, other.centroids)
            terms.append(vmf_loss(cells, other.centroids, labels, **options))
        return self.vmf.weight * sum(terms)

    def find_clusters(self, target_features: Tensor, generator: torch.Generator) -> list[Clusters]:
        """For each view, its cells of all images of this process in K clusters; K is drawn, at most the number of cells.

        Args:
            target_features: (2 B, D, h, w), without gradient.
            generator: on the CPU; draws K, the same for both views, and the start of either.
        """
        cells = target_features.shape[0] // 2 * target_features[0, 0].numel()
        drawn = torch.randint(self.vmf.min_clusters, self.vmf.max_clusters + 1, (), generator=generator)
        draws = torch.rand(2, 1, min(int(drawn), cells), generator=generator)
        draws = draws.to(target_features.device, non_blocking=True)
        with torch.autocast(target_features.device.type, enabled=False):
            return [self._cluster(view, own) for view, own in zip(target_features.chunk(2), draws)]

    def _cluster(self, features: Tensor, draws: Tensor) -> Clusters:
        points = unit(features.flatten(2).transpose(1, 2)).flatten(0, 1)
        everyone = torch.ones(1, len(points), dtype=torch.bool, device=points.device)
        K = draws.shape[1]
        labels = kmeans(points[None], everyone, num_clusters=K, draws=draws, max_iter=self.vmf.max_iter)[0]
        members = (labels == torch.arange(K, device=labels.device)[:, None]).to(points.dtype)
        means = members @ points / members.sum(1, keepdim=True).clamp(min=1)
        return Clusters(means if self.vmf.released else unit(means), labels.view(len(features), -1))
