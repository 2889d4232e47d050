"""Feature pyramid: what the deep levels of a trunk know, on the finer grids of the levels below."""

import torch.nn.functional as F
from torch import Tensor, nn


class FPN(nn.Module):
    """Feature pyramid network over the levels of a trunk.

    Args:
        channels: of each level, from the finest to the coarsest: {"c3": 512, "c4": 1024, "c5": 2048}.
        out_channels: of every level of the pyramid.
        outputs: levels to give; those below the lowest of them are not needed.
        norm: BatchNorm after each convolution, in place of its bias.
    Raises:
        ValueError: where `outputs` is empty or names a level that `channels` lacks.
    Source: Feature Pyramid Networks (Lin et al., 2017), section 3; the released DetCon-B with 2,048 channels and ReSim with
    256. Differs: any size of the levels' grids, each an upsampling of the next.
    """

    def __init__(self, channels: dict[str, int], *, out_channels: int, outputs: tuple[str, ...], norm: bool = False):
        super().__init__()
        if not outputs or not set(outputs) <= set(channels):
            raise ValueError(f"outputs: {list(outputs)}; name one or more of {', '.join(channels)}")
        finest_first = list(channels)
        self.levels = finest_first[min(map(finest_first.index, outputs)) :]
        self.lateral = nn.ModuleDict({level: _conv(channels[level], out_channels, 1, norm) for level in self.levels})
        self.output = nn.ModuleDict({level: _conv(out_channels, out_channels, 3, norm) for level in outputs})

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"c3": (N, D3, h, w), ...} -> {level: (N, out_channels, h, w)} for each of `outputs`, on that level's grid."""
        *lower, top = self.levels
        merged = {top: self.lateral[top](features[top])}
        above = merged[top]
        for level in reversed(lower):
            lateral = self.lateral[level](features[level])
            above = merged[level] = lateral + F.interpolate(above, size=lateral.shape[-2:], mode="nearest")
        return {level: convolution(merged[level]) for level, convolution in self.output.items()}


def _conv(inputs: int, outputs: int, size: int, norm: bool) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=not norm)
    # Outputs begin as large as inputs, as detectron2's and torchvision's pyramids and the released ReSim have it; torch's own
    # start is smaller by the square root of three, and the features of a contrastive loss would turn faster.
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    if not norm:
        nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs)) if norm else convolution
