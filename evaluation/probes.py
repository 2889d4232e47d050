"""Frozen-feature probes: what a linear model can read off a backbone's features, beside the same backbone untrained.

A probe is fitted on training images and judged on others. It is fitted several times, each to another random part of the
training images, so that the spread says how far a difference can be trusted.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.probe_data import ProbeData

# (N, 3, S, S) uint8 images -> (N, D, h, w) features.
FeatureMap = Callable[[Tensor], Tensor]
# Pixels of an image that the segmentation probe is fitted to, drawn at random.
_PIXELS_PER_IMAGE = 48


class Scores(NamedTuple):
    """A probe's score for each of its random parts of the training images."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def spread(self) -> float:
        """From the lowest to the highest."""
        return max(self.values) - min(self.values)


class Comparison(NamedTuple):
    """Scores of the pretrained and of the untrained backbone for one probe."""

    pretrained: Scores
    untrained: Scores
    chance: float

    @property
    def gain(self) -> float:
        return self.pretrained.mean - self.untrained.mean

    @property
    def learned(self) -> bool:
        """Whether the gain is larger than the larger of both spreads."""
        return self.gain > max(self.pretrained.spread, self.untrained.spread)


def compare_backbones(
    pretrained: FeatureMap,
    untrained: FeatureMap,
    train: ProbeData,
    val: ProbeData,
    *,
    num_seeds: int = 5,
    train_share: float = 0.5,
    ridge: float = 1e-2,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Both probes on both backbones, over the same random parts of the training images.

    Args:
        pretrained, untrained: (N, 3, S, S) uint8 images -> (N, D, h, w) features; run without gradient. Modules must be
            in eval mode, or a batch's neighbours change its features.
        train: what the probes are fitted to.
        val: what they are judged on.
        num_seeds: random parts of the training images, at least 2 for a spread.
        train_share: share of the training images in each part.
        ridge: weight of the penalty, per example.
        seed: of the random parts.
    Returns:
        "region accuracy" and "segmentation mIoU".
    """
    scores = {}
    for name, backbone in (("pretrained", pretrained), ("untrained", untrained)):
        features = extract_features(backbone, train.images), extract_features(backbone, val.images)
        scores[name] = [
            _probe_part(*features, train, val, part, ridge=ridge)
            for part in _random_parts(len(train.images), num_seeds, train_share, seed)
        ]
    regions = val.categories[val.categories >= 0]
    chances = (
        torch.bincount(regions).max().item() / len(regions),
        mean_iou(torch.zeros_like(val.segmentation), val.segmentation, num_classes=val.num_classes + 1),
    )
    return {
        probe: Comparison(
            Scores(tuple(part[place] for part in scores["pretrained"])),
            Scores(tuple(part[place] for part in scores["untrained"])),
            chances[place],
        )
        for place, probe in enumerate(("region accuracy", "segmentation mIoU"))
    }


def format_comparisons(comparisons: Mapping[str, Comparison]) -> str:
    """A table of the probes and one line that says whether pretraining showed in all, in some or in none of them."""
    lines = [f"{'probe':<20}{'chance':>8}{'untrained':>20}{'pretrained':>20}{'gain':>9}  above the spread"]
    for name, row in comparisons.items():
        cells = [f"{scores.mean:.1%} (range {scores.spread:.1%})" for scores in (row.untrained, row.pretrained)]
        answer = "yes" if row.learned else "no"
        lines.append(f"{name:<20}{row.chance:>8.1%}{cells[0]:>20}{cells[1]:>20}{100 * row.gain:>+9.1f}  {answer}")
    num_learned = sum(row.learned for row in comparisons.values())
    if num_learned == len(comparisons):
        verdict = "the pretrained backbone lies above the untrained one by more than the probes' spread"
    elif num_learned:
        verdict = "pretraining shows in some of the probes only"
    else:
        verdict = "pretraining does not show: the difference is within the probes' spread"
    return "\n".join([*lines, f"Verdict: {verdict}."])


@torch.no_grad()
def extract_features(backbone: FeatureMap, images: Tensor, *, batch_size: int = 256) -> Tensor:
    """(N, D, h, w) float32 features of uint8 images (N, 3, S, S), on the CPU."""
    return torch.cat([backbone(batch).float().cpu() for batch in images.split(batch_size)])


def pool_objects(features: Tensor, data: ProbeData) -> tuple[Tensor, Tensor]:
    """Mean features of every object over its true mask.

    Args:
        features: (N, D, h, w).
        data: the N images' ground truth.
    Returns:
        (R, D) pooled features and (R,) class of each of the R objects.
    """
    size = features.shape[-2:]
    masks = F.one_hot(data.instances + 1, data.categories.shape[1] + 1)[..., 1:].permute(0, 3, 1, 2).float()
    weight = F.adaptive_avg_pool2d(masks, size)
    weight = weight / weight.sum((2, 3), keepdim=True).clamp(min=1e-9)
    pooled = torch.einsum("nmhw,ndhw->nmd", weight, features)
    # An object that others hide entirely has nothing to be known by.
    seen = (data.categories >= 0) & (weight.sum((2, 3)) > 0)
    return pooled[seen], data.categories[seen]


class LinearClassifier(NamedTuple):
    """Scores of K classes as a linear function of standardised features."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """(..., D) -> (..., K)."""
        return ((features - self.mean) / self.scale) @ self.weight + self.bias


def fit_linear(features: Tensor, labels: Tensor, *, num_classes: int, ridge: float) -> LinearClassifier:
    """Least squares to one-hot targets with a penalty, in closed form and in float64, after standardising.

    Args:
        features: (R, D).
        labels: (R,) in [0, num_classes).
        num_classes: K.
        ridge: penalty per example on the squared weights; the bias is free.
    """
    mean, scale = features.double().mean(0), features.double().std(0, correction=0).clamp(min=1e-6)
    inputs = (features.double() - mean) / scale
    targets = F.one_hot(labels, num_classes).double()
    bias = targets.mean(0)
    gram = inputs.T @ inputs / len(inputs) + ridge * torch.eye(inputs.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, inputs.T @ (targets - bias) / len(inputs))
    return LinearClassifier(*(tensor.float() for tensor in (mean, scale, weight, bias)))


def mean_iou(predicted: Tensor, labels: Tensor, *, num_classes: int) -> float:
    """Mean over the classes that either map holds of intersection over union, counted over all pixels at once."""
    pairs = torch.bincount((labels * num_classes + predicted).flatten(), minlength=num_classes**2)
    confusion = pairs.view(num_classes, num_classes).double()
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    return (confusion.diagonal()[union > 0] / union[union > 0]).mean().item()


def _probe_part(
    train_features: Tensor, val_features: Tensor, train: ProbeData, val: ProbeData, part: Tensor, *, ridge: float
) -> tuple[float, float]:
    """Both probes' scores, fitted to the training images in `part`."""
    some = train._replace(
        images=train.images[part], instances=train.instances[part], categories=train.categories[part]
    )
    features = train_features[part]
    accuracy = _region_accuracy(features, val_features, some, val, ridge=ridge)
    return accuracy, _segmentation_miou(features, val_features, some, val, ridge=ridge)


def _region_accuracy(train_features: Tensor, val_features: Tensor, train: ProbeData, val: ProbeData, *, ridge: float) -> float:
    pooled, classes = pool_objects(train_features, train)
    classifier = fit_linear(pooled, classes, num_classes=train.num_classes, ridge=ridge)
    pooled, classes = pool_objects(val_features, val)
    return (classifier(pooled).argmax(-1) == classes).float().mean().item()


def _segmentation_miou(
    train_features: Tensor, val_features: Tensor, train: ProbeData, val: ProbeData, *, ridge: float
) -> float:
    """The classifier is fitted to features interpolated at random pixels and applied at the grid's cells, whose scores are
    then interpolated: both orders are the same linear function, but this one never makes features for every pixel."""
    labels = train.segmentation
    place = torch.rand(len(labels), _PIXELS_PER_IMAGE, 2, generator=torch.Generator().manual_seed(0))
    sampled = F.grid_sample(train_features, 2 * place[:, None] - 1, mode="bilinear", padding_mode="border", align_corners=False)
    pixel = (place * labels.shape[-1]).long().clamp(max=labels.shape[-1] - 1)
    truth = labels.flatten(1).gather(1, pixel[..., 1] * labels.shape[-1] + pixel[..., 0])
    classifier = fit_linear(
        sampled[:, :, 0].transpose(1, 2).flatten(0, 1), truth.flatten(), num_classes=train.num_classes + 1, ridge=ridge
    )
    scores = classifier(val_features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    predicted = [
        F.interpolate(some, val.instances.shape[-2:], mode="bilinear", align_corners=False).argmax(1) for some in scores.split(256)
    ]
    return mean_iou(torch.cat(predicted), val.segmentation, num_classes=val.num_classes + 1)


def _random_parts(count: int, num_parts: int, share: float, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(count, generator=generator)[: max(1, round(share * count))] for _ in range(num_parts)]
