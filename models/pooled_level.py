"""A picture as one row of numbers: a level of a frozen trunk, averaged over its cells or over windows of them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbone import Trunk


class PooledLevel(nn.Module):
    """A trunk up to a level and an average over it, in eval mode and without gradient.

    Args:
        backbone: trunk giving {level: (N, D, h, w)}.
        level: which one is pooled.
        window: cells a side that are averaged, at every place where they fit; None for all cells. 6 on the 7 x 7 cells of a
            ResNet at 224 pixels leaves 2 x 2, and so rows of 8192 numbers.
    Source: Goyal et al., Scaling and Benchmarking Self-Supervised Visual Representation Learning, ICCV 2019, for windows.
    """

    def __init__(self, backbone: Trunk, *, level: str = "c5", window: int | None = None):
        super().__init__()
        self.backbone, self._level, self._window = backbone, level, window
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) normalised -> (N, D times the places of a window) float32 rows of length one.

        Raises:
            ValueError: the window is larger than the level.
        """
        features = self.backbone(images, last=self._level)[self._level].float()
        if self._window is None:
            pooled = features.mean((2, 3))
        else:
            side = min(features.shape[2:])
            if self._window > side:
                raise ValueError(
                    f"features.window: {self._window}, but {self._level} has {side} cells a side at this size"
                )
            pooled = F.avg_pool2d(features, self._window, stride=1).flatten(1)
        return F.normalize(pooled, dim=1)
