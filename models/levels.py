"""Features of several levels side by side on one grid."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

JOINED = "joined"


class JoinedLevels(nn.Module):
    """Levels of a trunk, each averaged onto the grid of the last, as one.

    Args:
        levels: names of the levels in the order of their channels; the last is the coarsest.
    Source: NetWrapper of the released CYBORGS. Differs: a level whose side is no multiple of the last one's is averaged too.
    """

    def __init__(self, levels: tuple[str, ...] = ("c3", "c4", "c5")):
        super().__init__()
        self.levels = tuple(levels)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{level: (N, D, H, W)} -> {"joined": (N, sum of the levels' D, h, w)}, (h, w) the last level's grid."""
        size = features[self.levels[-1]].shape[-2:]
        return {JOINED: torch.cat([_average_onto(features[level], size) for level in self.levels], dim=1)}


def _average_onto(x: Tensor, size: torch.Size) -> Tensor:
    (H, W), (h, w) = x.shape[-2:], size
    # On a GPU, this alone has a gradient that is repeatable to the bit.
    if H % h == W % w == 0:
        return F.avg_pool2d(x, (H // h, W // w))
    return F.adaptive_avg_pool2d(x, size)
