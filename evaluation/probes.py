"""Frozen-feature probes: what a linear model can read off a backbone's features, beside the same backbone untrained.

A probe is fitted on training images and judged on others. It is fitted several times, each to another random part of
the training images, so that the spread says how far a difference can be trusted.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.confusion import mean_iou
from evaluation.probe_data import ProbeData

# (N, 3, S, S) uint8 images -> (N, D, h, w) features.
FeatureMap = Callable[[Tensor], Tensor]
# Pixels of an image that the segmentation probe is fitted to, drawn at random.
_PIXELS_PER_IMAGE = 32
_BATCH = 250  # images that are worked on at a time, for the sake of memory


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
    options = {"num_seeds": num_seeds, "train_share": train_share, "ridge": ridge, "seed": seed}
    scores = [probe_backbone(backbone, train, val, **options) for backbone in (pretrained, untrained)]
    classes = val.categories[val.categories >= 0]
    background = torch.zeros_like(val.segmentation)
    chances = {
        "region accuracy": torch.bincount(classes).max().item() / len(classes),
        "segmentation mIoU": mean_iou(background, val.segmentation, num_classes=val.num_classes + 1),
    }
    return {name: Comparison(scores[0][name], scores[1][name], chance) for name, chance in chances.items()}


def probe_backbone(
    backbone: FeatureMap,
    train: ProbeData,
    val: ProbeData,
    *,
    num_seeds: int = 5,
    train_share: float = 0.5,
    ridge: float = 1e-2,
    seed: int = 0,
) -> dict[str, Scores]:
    """Both probes on one backbone; all as in `compare_backbones`, but one random part is enough."""
    parts = _random_parts(len(train.images), num_seeds, train_share, seed)
    train_features, val_features = (extract_features(backbone, data.images) for data in (train, val))
    regions = _region_accuracies(train_features, val_features, train, val, parts, ridge=ridge)
    pixels = _segmentation_mious(train_features, val_features, train, val, parts, ridge=ridge)
    return {"region accuracy": regions, "segmentation mIoU": pixels}


def feature_spread(features: Tensor) -> float:
    """0 where all images look the same, 1 for directions spread evenly: of (N, D, h, w) features, averaged over cells, as unit
    vectors, the standard deviation over images, averaged over dimensions, times sqrt(D).

    Source: SimSiam (Chen and He, CVPR 2021), section 4.1, there of projections.
    """
    rows = F.normalize(features.mean((2, 3)), dim=1)
    return (rows.std(0, correction=0).mean() * rows.shape[1] ** 0.5).item()


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
def extract_features(backbone: FeatureMap, images: Tensor, *, batch_size: int = _BATCH) -> Tensor:
    """(N, D, h, w) float32 features of uint8 images (N, 3, S, S), on the CPU."""
    return torch.cat([backbone(batch).float().cpu() for batch in images.split(batch_size)])


def pool_objects(features: Tensor, data: ProbeData) -> Tensor:
    """Mean features of every object over its true mask.

    Args:
        features: (N, D, h, w).
        data: the N images' ground truth.
    Returns:
        (N, M, D), beside `data.categories`; 0 for places without an object, or whose object others hide.
    """
    places = torch.arange(data.categories.shape[1])[:, None, None]
    pooled = []
    for some, instances in zip(features.split(_BATCH), data.instances.split(_BATCH)):
        weight = F.adaptive_avg_pool2d((instances[:, None] == places).float(), some.shape[-2:])
        weight = weight / weight.sum((2, 3), keepdim=True).clamp(min=1e-9)
        pooled.append(torch.einsum("nmhw,ndhw->nmd", weight, some))
    return torch.cat(pooled)


def sample_pixels(features: Tensor, segmentation: Tensor, *, per_image: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features interpolated at random pixels, (N, P, D), and what the pixels show, (N, P)."""
    N, side = len(features), segmentation.shape[-1]
    place = torch.rand(N, per_image, 2, generator=torch.Generator().manual_seed(seed))
    grid = 2 * place[:, None] - 1
    sampled = F.grid_sample(features, grid, mode="bilinear", padding_mode="border", align_corners=False)
    x, y = (place * side).long().clamp(max=side - 1).unbind(-1)
    return sampled[:, :, 0].transpose(1, 2), segmentation.flatten(1).gather(1, y * side + x)


class LinearClassifier(NamedTuple):
    """Scores of K classes as a linear function of standardised features."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """(..., D) -> (..., K)."""
        return ((features - self.mean) / self.scale) @ self.weight + self.bias


def fit_linear(
    features: Tensor, labels: Tensor, *, num_classes: int, ridge: float, balanced: bool = False
) -> LinearClassifier:
    """Least squares to one-hot targets with a penalty, in closed form and in float64, after standardising.

    Args:
        features: (R, D).
        labels: (R,) in [0, num_classes).
        num_classes: K.
        ridge: penalty on the squared weights, against a mean squared error over the examples; the bias is free.
        balanced: let every class that occurs weigh the same, or the commonest wins wherever the features leave a doubt.
    """
    counts = torch.bincount(labels, minlength=num_classes).double()
    share = (1 / counts if balanced else torch.ones_like(counts))[labels]
    share = (share / share.sum())[:, None]
    features, targets = features.double(), F.one_hot(labels, num_classes).double()
    mean, bias = (share * features).sum(0), (share * targets).sum(0)
    scale = (share * (features - mean).square()).sum(0).sqrt().clamp(min=1e-6)
    inputs = (features - mean) / scale
    gram = inputs.T @ (share * inputs) + ridge * torch.eye(inputs.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, inputs.T @ (share * (targets - bias)))
    return LinearClassifier(*(tensor.float() for tensor in (mean, scale, weight, bias)))


def _region_accuracies(
    train_features: Tensor, val_features: Tensor, train: ProbeData, val: ProbeData, parts: list[Tensor], *, ridge: float
) -> Scores:
    train_pooled, val_pooled = pool_objects(train_features, train), pool_objects(val_features, val)
    there = val.categories >= 0
    accuracies = []
    for part in parts:
        known = train.categories[part] >= 0
        classifier = fit_linear(
            train_pooled[part][known], train.categories[part][known], num_classes=train.num_classes, ridge=ridge
        )
        correct = classifier(val_pooled[there]).argmax(-1) == val.categories[there]
        accuracies.append(correct.float().mean().item())
    return Scores(tuple(accuracies))


def _segmentation_mious(
    train_features: Tensor, val_features: Tensor, train: ProbeData, val: ProbeData, parts: list[Tensor], *, ridge: float
) -> Scores:
    """Fitted to features interpolated at random pixels, applied to the grid's cells; the scores are then interpolated.

    Interpolating features or scores is the same linear function, but features of every pixel are never made.
    """
    num_classes = train.num_classes + 1
    sampled, shown = sample_pixels(train_features, train.segmentation, per_image=_PIXELS_PER_IMAGE, seed=0)
    # Cells are judged at the images' own resolution, which is as fine as the backbone has seen them.
    size = val.images.shape[-2:]
    truth = F.interpolate(val.segmentation[:, None].float(), size, mode="nearest-exact")[:, 0].long()
    cells = val_features.permute(0, 2, 3, 1)
    scores = []
    for part in parts:
        classifier = fit_linear(
            sampled[part].flatten(0, 1), shown[part].flatten(), num_classes=num_classes, ridge=ridge, balanced=True
        )
        logits = classifier(cells).permute(0, 3, 1, 2)
        predicted = [F.interpolate(some, size, mode="bilinear").argmax(1) for some in logits.split(_BATCH)]
        scores.append(mean_iou(torch.cat(predicted), truth, num_classes=num_classes))
    return Scores(tuple(scores))


def _random_parts(count: int, num_parts: int, share: float, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(count, generator=generator)[: max(1, round(share * count))] for _ in range(num_parts)]
