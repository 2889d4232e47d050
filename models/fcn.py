"""Fully convolutional networks: a dilated trunk and heads that say what every place shows."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbone import Trunk

_STAGES = ("layer1", "layer2", "layer3", "layer4")


def dilate(trunk: Trunk, *, output_stride: int) -> Trunk:
    """The same weights with C5 at a smaller stride: the last stages dilate their convolutions instead of striding.

    At the places where the trunk itself has features, the dilated one has the same (in eval mode).

    Args:
        trunk: left as it is.
        output_stride: C5's; the trunk's own or one that leaving strides out from the end reaches.
    Returns:
        A trunk of the same parameter names, whose `levels` tell the new strides.
    Raises:
        ValueError: no stage's end has that stride.
    Source: DeepLab (Chen et al. 2017), section 3.1. Differs: torchvision dilates no BasicBlock; here those of ResNet-18, -34
        and resnet_tiny follow the same rule.
    """
    trunk = copy.deepcopy(trunk)
    stages = [getattr(trunk, name) for name in _STAGES]
    strides = [_first_stride(stage) for stage in stages]
    stem = trunk.levels["c2"].stride // strides[0]
    reached, dilation = stem, 1
    for stage, stride in zip(stages, strides):
        before = dilation
        # After a stride that was left out, the next would no longer land on the trunk's own places.
        if reached * stride > output_stride or dilation > 1:
            dilation *= stride
            stride = 1
        reached *= stride
        if dilation > 1:
            _dilate_stage(stage, stride=stride, first=before, rest=dilation)
    if reached != output_stride:
        possible = sorted({stem, *(level.stride for level in trunk.levels.values())})
        raise ValueError(
            f"model.output_stride: {output_stride}, but this backbone can have {', '.join(map(str, possible))}"
        )
    return Trunk(trunk).train(trunk.training)


def _first_stride(stage: nn.Sequential) -> int:
    return max(conv.stride[0] for conv in stage[0].modules() if isinstance(conv, nn.Conv2d))


def _dilate_stage(stage: nn.Sequential, *, stride: int, first: int, rest: int) -> None:
    """Give a stage this stride; its first 3x3 convolution, on the grid of the stage before, the dilation `first`."""
    convolutions = [conv for conv in stage.modules() if isinstance(conv, nn.Conv2d)]
    dilation = first
    for conv in convolutions:
        if conv.stride != (1, 1):
            conv.stride = (stride, stride)
        if conv.kernel_size != (1, 1):
            conv.dilation = conv.padding = (dilation, dilation)
            dilation = rest


class FCNHead(nn.Module):
    """3x3 convolutions, each with BatchNorm and ReLU, then one score a class at every place.

    Args:
        in_channels: D of the features.
        channels: of the convolutions between.
        num_convs: at least 1.
        num_classes: C.
        dilation: of the convolutions.
        concat: one more convolution, undilated, sees the features beside what became of them.
        dropout: share of the channels that training drops before the scores.
    Source: MMSegmentation's FCNHead (weights' start included); MoCo, appendix (256 channels, 2 convolutions, dilation 6).
    """

    def __init__(
        self,
        in_channels: int,
        *,
        channels: int,
        num_convs: int,
        num_classes: int,
        dilation: int = 1,
        concat: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__()
        widths = [in_channels, *[channels] * num_convs]
        self.convs = nn.Sequential(*(_conv_norm(*pair, dilation=dilation) for pair in zip(widths, widths[1:])))
        self.joined = _conv_norm(in_channels + channels, channels, dilation=1) if concat else None
        self.dropout = dropout
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, features: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(N, D, h, w) -> (N, C, h, w); `generator`, on the CPU, draws the channels that training drops."""
        x = self.convs(features)
        if self.joined is not None:
            x = self.joined(torch.cat([features, x], dim=1))
        return self.classifier(self._drop(x, generator) if self.training and self.dropout else x)

    def _drop(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        # The process' own generator would not go on where a resumed run left it.
        kept = torch.rand(*x.shape[:2], 1, 1, generator=generator) >= self.dropout
        return x * (kept / (1 - self.dropout)).to(x)


def _conv_norm(in_channels: int, out_channels: int, *, dilation: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class FCN(nn.Module):
    """A trunk, a head on C5 and, while training, perhaps an auxiliary head on C4.

    Args:
        trunk: dilated as wanted.
        head: reads C5.
        auxiliary: reads C4; it only helps to train.
        align_corners: how scores are enlarged.
    """

    def __init__(self, trunk: Trunk, head: FCNHead, auxiliary: FCNHead | None = None, *, align_corners: bool = False):
        super().__init__()
        self.trunk, self.head, self.auxiliary = trunk, head, auxiliary
        self.align_corners = align_corners

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """(N, 3, H, W) normalised images -> scores (N, C, H, W): "head", in training also "auxiliary" if there is one."""
        features = self.trunk(images)
        scores = {"head": self.head(features["c5"], generator)}
        if self.auxiliary is not None and self.training:
            scores["auxiliary"] = self.auxiliary(features["c4"], generator)
        return {name: self.enlarge(score, images.shape[-2:]) for name, score in scores.items()}

    def enlarge(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores (N, C, h, w) at another size (H, W), bilinear."""
        return F.interpolate(scores, size, mode="bilinear", align_corners=self.align_corners)

    def slide(self, images: Tensor, *, window: tuple[int, int], step: tuple[int, int]) -> Tensor:
        """Scores (N, C, H, W) as the mean over overlapping windows, the last of which end with the image.

        Args:
            window, step: (height, width) in pixels; a window larger than the image is the whole image.
        Source: MMSegmentation's sliding inference.
        """
        H, W = images.shape[-2:]
        total, count = None, images.new_zeros(1, 1, H, W)
        for top in window_starts(H, window[0], step[0]):
            for left in window_starts(W, window[1], step[1]):
                place = (..., slice(top, top + window[0]), slice(left, left + window[1]))
                scores = self(images[place])["head"]
                if total is None:
                    total = scores.new_zeros(*scores.shape[:2], H, W)
                total[place] += scores
                count[place] += 1
        return total / count


def window_starts(length: int, window: int, step: int) -> list[int]:
    """Where windows begin that together cover an axis, every `step` pixels, the last ending where the axis ends."""
    last = max(length - window, 0)
    return sorted({*range(0, last, step), last})
