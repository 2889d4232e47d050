"""Label maps out of a network's own features: cells of a group of whole images in clusters."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from data.images import UnreadableImage, read_image
from data.label_maps import MAX_LABELS
from data.listing import ImageList
from engine.precision import memory_format
from evaluation.ordered_reading import prepare_images
from models.backbone import Trunk
from models.regions import kmeans
from utils.distributed import broadcast_object, is_main
from utils.seeding import numpy_generator

# A stream of its own beside those of views and regions, which are named by (seed, epoch, image) and 0 to 4.
_CLUSTERS = 5


@dataclass(frozen=True)
class Clustering:
    """How a generation of label maps is made; the defaults are the published ones.

    Attributes:
        layer: of the trunk, whose features are clustered; see Trunk.until.
        images_per_group: consecutive images of the listing that are clustered together.
        min_clusters, max_clusters: a group's number of clusters is drawn between them, both included.
        max_iter: iterations of K-means at most.
        seed: of every draw, with the generation's and the group's number.
    """

    layer: str = "layer2.2"
    images_per_group: int = 16
    min_clusters: int = 2
    max_clusters: int = 256
    max_iter: int = 20
    seed: int = 0

    def __post_init__(self):
        if self.images_per_group < 1:
            raise ValueError(f"images_per_group must be 1 or more, not {self.images_per_group}")
        if not 1 <= self.min_clusters <= self.max_clusters <= MAX_LABELS:
            raise ValueError(
                f"min_clusters {self.min_clusters} and max_clusters {self.max_clusters} must rise, from 1 to {MAX_LABELS}"
            )


class WholeImages(Dataset):
    """(H, W, 3) uint8, an image as one sees it; None where it cannot be read."""

    def __init__(self, images: ImageList):
        self.images = images

    def __getitem__(self, index: int) -> Tensor | None:
        try:
            return torch.from_numpy(read_image(self.images.path(index)))
        except UnreadableImage:
            return None


def frozen_layers(trunk: Trunk, layer: str, *, device: torch.device) -> nn.Module:
    """A copy of the trunk up to `layer`, in eval mode and float32, on every process as rank 0 has it.

    Processes that train without SyncBN have BatchNorm statistics of their own.
    """
    layers = copy.deepcopy(trunk.until(layer)).float().eval().requires_grad_(False)
    state = {name: tensor.cpu() for name, tensor in layers.state_dict().items()} if is_main() else None
    layers.load_state_dict(broadcast_object(state))
    return layers.to(device, memory_format=memory_format(device))


@torch.no_grad()
def cell_features(layers: nn.Module, image: Tensor, *, device: torch.device) -> Tensor:
    """(H, W, 3) uint8 -> (h, w, D) the features of an image at its own size, each cell's of length one."""
    features = layers(prepare_images(image.permute(2, 0, 1)[None], device))
    return F.normalize(features[0].permute(1, 2, 0), dim=-1).contiguous()


def cluster_cells(
    features: Sequence[Tensor], *, clustering: Clustering, generation: int, group: int
) -> list[np.ndarray]:
    """Cells of all images of a group in one K-means.

    Args:
        features: of each image, (h, w, D); at least one image.
        generation, group: their numbers, by which the number of clusters and the K-means++ start are drawn.
    Returns:
        For each image (h, w) int64 clusters in [0, K). K is at most the number of cells of the smallest image, as published.
    Source: CYBORGS' subproc_extract_kmeans.py. Differs: K-means++ for faiss' random start; an empty cluster stays so.
    """
    rng = numpy_generator(clustering.seed, generation, group, _CLUSTERS)
    drawn = int(rng.integers(clustering.min_clusters, clustering.max_clusters, endpoint=True))
    cells = [one.shape[0] * one.shape[1] for one in features]
    K = min(drawn, *cells)
    points = torch.cat([one.flatten(0, 1) for one in features])[None]
    everyone = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)
    draws = torch.from_numpy(rng.random((1, K))).to(points.device)
    labels = kmeans(points, everyone, num_clusters=K, draws=draws, max_iter=clustering.max_iter, pairwise=False)
    parts = labels[0].cpu().split(cells)
    return [part.view(one.shape[:2]).numpy() for part, one in zip(parts, features)]
