"""The convolutional trunk that pretraining is for: a torchvision ResNet without its classifier."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from utils.files import is_sound_zip

LEVELS = ("c2", "c3", "c4", "c5")
_SIDE = 128  # of the image that levels are measured on, in pixels


class Level(NamedTuple):
    channels: int
    stride: int


class Trunk(nn.Module):
    """A ResNet up to its last stage, under torchvision's parameter names.

    Args:
        resnet: a module with children conv1, bn1, relu, maxpool, layer1 .. layer4 as torchvision names them; whatever else
            it has (avgpool, fc) is left out, so that the state dict holds the trunk alone.

    `levels` maps "c2" .. "c5" to their channels and stride, measured rather than assumed.
    """

    def __init__(self, resnet: nn.Module):
        super().__init__()
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            setattr(self, name, getattr(resnet, name))
        self.levels = _measure_levels(self)

    def forward(self, images: Tensor, *, last: str = "c5") -> dict[str, Tensor]:
        """(N, 3, H, W) normalised images -> {"c2": (N, D2, H/s2, W/s2), ...} up to level `last`."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = {}
        for level, stage in zip(LEVELS[: LEVELS.index(last) + 1], (self.layer1, self.layer2, self.layer3, self.layer4)):
            x = features[level] = stage(x)
        return features

    def until(self, name: str) -> nn.Sequential:
        """The layers up to and with a stage, such as "layer3", or a block of one: "layer2.2" is the third of layer2.

        Returns:
            (N, 3, H, W) normalised images -> (N, D, h, w); its modules are the trunk's own, not copies.
        Raises:
            ValueError: there is no such layer; names those there are.
        """
        layers, ends = [self.conv1, self.bn1, self.relu, self.maxpool], {}
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            for number, block in enumerate(getattr(self, stage)):
                layers.append(block)
                ends[stage] = ends[f"{stage}.{number}"] = len(layers)
        if name not in ends:
            raise ValueError(f"bootstrap.layer_name: {name!r} is not one of {', '.join(ends)}")
        return nn.Sequential(*layers[: ends[name]])

    def freeze_above(self, level: str) -> None:
        """No gradient for the stages above `level`, which a method that reads that level never trains."""
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4)[LEVELS.index(level) + 1 :]:
            stage.requires_grad_(False)


class TinyResNet(nn.Module):
    """A ResNet of the usual four stages, a few channels wide, for small images and slow machines.

    Args:
        width: channels of the first stage; each later stage doubles them.
        blocks: residual blocks (torchvision's BasicBlock) in each stage.
        strides: strides of the stem and of the four stages; the default gives C4 a stride of 4 and C5 one of 8.
    Raises:
        ValueError: for strides that are no powers of two, or come to more than 128 together.
    """

    def __init__(
        self, *, width: int = 16, blocks: tuple[int, ...] = (1, 1, 1, 1), strides: tuple[int, ...] = (1, 1, 2, 2, 2)
    ):
        super().__init__()
        if any(stride & (stride - 1) for stride in strides) or math.prod(strides) > _SIDE:
            raise ValueError(
                f"model.backbone.strides: {list(strides)} must be powers of two, their product {_SIDE} at most"
            )
        self.conv1 = nn.Conv2d(3, width, 3, stride=strides[0], padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity()
        channels = width
        for stage, (depth, stride) in enumerate(zip(blocks, strides[1:])):
            planes = width * 2**stage
            setattr(self, f"layer{stage + 1}", _make_stage(channels, planes, depth, stride))
            channels = planes


def _make_stage(channels: int, planes: int, depth: int, stride: int) -> nn.Sequential:
    projection = None
    if stride != 1 or channels != planes:
        projection = nn.Sequential(nn.Conv2d(channels, planes, 1, stride=stride, bias=False), nn.BatchNorm2d(planes))
    first = BasicBlock(channels, planes, stride, projection)
    return nn.Sequential(first, *(BasicBlock(planes, planes) for _ in range(depth - 1)))


@torch.no_grad()
def _measure_levels(trunk: Trunk) -> dict[str, Level]:
    training = trunk.training
    # In eval mode the probe leaves no trace in the BatchNorm statistics.
    features = trunk.eval()(torch.zeros(1, 3, _SIDE, _SIDE))
    trunk.train(training)
    return {name: Level(x.shape[1], _SIDE // x.shape[2]) for name, x in features.items()}


def make_trunk(type: str, *, pretrained: bool | str = False, **tiny: Any) -> Trunk:
    """Build a trunk by name.

    Args:
        type: a torchvision ResNet ("resnet50", "resnext50_32x4d", "wide_resnet50_2", ...) or "resnet_tiny".
        pretrained: True for torchvision's ImageNet weights, or the path of a state dict under torchvision's names (such as
            the `backbone.pth` of a run).
        tiny: `width`, `blocks` and `strides` of TinyResNet; other trunks have their own and leave these aside.
    Raises:
        ValueError: for an unknown name, or weights that do not fit.
    """
    if type == "resnet_tiny":
        if pretrained is True:
            raise ValueError(
                "model.backbone.pretrained: there are no published weights for resnet_tiny; use false or a path"
            )
        resnet = TinyResNet(**tiny)
    else:
        builders = list_resnets()
        if type not in builders:
            raise ValueError(f"model.backbone.type: {type!r} is not one of resnet_tiny, {', '.join(sorted(builders))}")
        # Residual branches keep torchvision's default start: zero_init_residual is off in the published runs.
        resnet = torchvision.models.get_model(type, weights="DEFAULT" if pretrained is True else None)
    trunk = Trunk(resnet)
    if isinstance(pretrained, str):
        load_trunk(trunk, pretrained)
    return trunk


def list_resnets() -> list[str]:
    """What `make_trunk` takes of torchvision's models, by name."""
    names = torchvision.models.list_models(torchvision.models)
    return [name for name in names if name.startswith(("resnet", "resnext", "wide_resnet"))]


def load_trunk(trunk: Trunk, path: str) -> None:
    """Load a flat state dict under torchvision's names; `fc.*` is ignored, anything else must fit exactly."""
    if not Path(path).is_file():
        raise ValueError(f"model.backbone.pretrained: no file {path}; give false, true or the path of a backbone.pth")
    if not is_sound_zip(path):
        raise ValueError(
            f"model.backbone.pretrained: {path} is damaged: a part of it does not have its checksum; copy it again"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    try:
        trunk.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"model.backbone.pretrained: {path} does not fit model.backbone.type: {error}") from error
