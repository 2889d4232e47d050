"""R2O: regions made of superpixels by the target network's own features, ever fewer, compared by masked BYOL.

Source: Refine and Represent: Region-to-Object Representation Learning (Gokul, Kallidromitis et al., 2022), figure 2.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from losses.byol import masked_byol_loss, overlap, region_weight
from models.momentum import make_target, update_target
from models.pooling import align_masks, pool_regions, sample_labels, soft_masks
from models.regions import cluster_superpixels, merge_superpixels, one_hot_regions
from models.views import by_view, fold_views
from utils.distributed import all_reduce_sum, world_size
from utils.method import Output, Progress


class R2O(nn.Module):
    """Region-to-Object representation learning.

    Args:
        backbone: trunk giving {"c2": ..., "c5": ...}; its `levels` say how many channels each has.
        projector: (N, M, D of region_level) -> (N, M, d).
        predictor: (N, M, d) -> (N, M, d).
        momentum: momentum of the target network at a Progress.
        num_clusters: K at a Progress; None for no clustering, where every superpixel is a region.
        cluster_level: level whose features refine the regions; C4 as published.
        region_level: level whose features are compared in the regions; C5 as published.
        region_size: side of the region maps, in cells over the whole image.
        images_per_kmeans: images whose superpixels are clustered together.
        max_iter: iterations of K-means at most.
        soft_labels: mix cluster numbers at borders as the release does.
        overlap_indicator: compare only regions that both views show.
        weight_by_area: weigh regions by their area.
        joint_views: BatchNorm sees both views together, as released, or each on its own.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        predictor: nn.Module,
        *,
        momentum: Callable[[Progress], float],
        num_clusters: Callable[[Progress], int | None],
        cluster_level: str = "c4",
        region_level: str = "c5",
        region_size: int = 56,
        images_per_kmeans: int = 32,
        max_iter: int = 25,
        soft_labels: bool = False,
        overlap_indicator: bool = True,
        weight_by_area: bool = False,
        joint_views: bool = True,
    ):
        super().__init__()
        self.backbone, self.projector, self.predictor = backbone, projector, predictor
        self.target = make_target(backbone, projector)
        self.momentum, self.num_clusters = momentum, num_clusters
        self.cluster_level, self.region_level = cluster_level, region_level
        self.region_size = (region_size, region_size)
        self.images_per_kmeans, self.max_iter, self.soft_labels = images_per_kmeans, max_iter, soft_labels
        self.overlap_indicator, self.weight_by_area, self.joint_views = overlap_indicator, weight_by_area, joint_views
        self.clusters: int | None = None

    def before_step(self, progress: Progress) -> None:
        # The target moves before it is used: it averages the weights of the steps before this one.
        update_target(self.target, self.backbone, self.projector, momentum=self.momentum(progress))
        self.clusters = self.num_clusters(progress)

    def after_step(self, progress: Progress) -> None:
        pass

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> Output:
        """One comparison of two views.

        Args:
            batch: images (B, 2, 3, S, S) normalised; spanning (B, 3, S, S), the whole images; superpixels (B, H, W) of the
                whole images and their largest number `num_superpixels`; boxes (B, 2, 4); flips (B, 2); seed (B,) on the host.
            generator: not needed: K-means draws from the images' own seeds.
        Returns:
            The loss, and the mean number of regions an image has and of those that both views show.
        """
        regions, num_regions = self.find_regions(batch, self.clusters)
        views = fold_views(batch["images"])
        features = self._encode(self.backbone, views)
        whole = one_hot_regions(regions, num_regions)
        masks = self._masks_of_views(whole, batch, size=features.shape[-2:])
        prediction = self.predictor(self._project(self.projector, features, masks))
        with torch.no_grad():
            backbone, projector = self.target
            target = self._project(projector, self._encode(backbone, views), masks)
            # View 1 predicts what the target says of view 2, and the other way round.
            target = torch.cat(target.chunk(2)[::-1])
        return self._compare(prediction, target, masks, whole)

    @torch.no_grad()
    def find_regions(self, batch: dict[str, Any], num_clusters: int | None) -> tuple[Tensor, int]:
        """Region maps (B, h, w) of the whole images, ids in [0, M) or -1, and M; None keeps the superpixels."""
        superpixels, count = batch["superpixels"], batch["num_superpixels"]
        if num_clusters is None:
            return sample_labels(superpixels, size=self.region_size).long(), count
        features = self.target[0](batch["spanning"], last=self.cluster_level)[self.cluster_level]
        with torch.autocast(features.device.type, enabled=False):
            masks = soft_masks(superpixels, num_labels=count, size=features.shape[-2:])
            pooled = pool_regions(features if features.dtype == torch.float64 else features.float(), masks)
            clusters = cluster_superpixels(
                pooled,
                masks.sum(-1) > 0,
                num_clusters=num_clusters,
                seeds=batch["seed"],
                images_per_group=self.images_per_kmeans,
                max_iter=self.max_iter,
            )
        regions = merge_superpixels(superpixels, clusters, size=self.region_size, soft_labels=self.soft_labels)
        return regions, num_clusters

    def _encode(self, backbone: nn.Module, views: Tensor) -> Tensor:
        level = self.region_level
        return by_view(lambda view: backbone(view, last=level)[level], views, joint=self.joint_views)

    def _project(self, projector: nn.Module, features: Tensor, masks: Tensor) -> Tensor:
        return by_view(projector, pool_regions(features, masks), joint=self.joint_views)

    def _masks_of_views(self, whole: Tensor, batch: dict[str, Any], *, size: tuple[int, int]) -> Tensor:
        views = zip(batch["boxes"].unbind(1), batch["flips"].unbind(1))
        # Their sums become the loss' weights, which low precision would round.
        with torch.autocast(whole.device.type, enabled=False):
            return torch.cat([align_masks(whole, boxes, flips, size=size) for boxes, flips in views])

    def _compare(self, prediction: Tensor, target: Tensor, masks: Tensor, whole: Tensor) -> Output:
        areas_1, areas_2 = masks.sum(-1).chunk(2)
        weight = region_weight(areas_1, areas_2, overlap_indicator=self.overlap_indicator, by_area=self.weight_by_area)
        weight = weight.repeat(2, 1)
        total = all_reduce_sum(weight.sum()) / world_size()
        loss = masked_byol_loss(prediction, target, weight, total_weight=total)
        present = whole.amax((2, 3)).sum(1)
        shared = overlap(areas_1, areas_2).sum(1)
        return Output({"loss": loss}, {"regions_per_image": present.mean(), "shared_regions": shared.mean()})
