"""Projector and predictor."""

from typing import Protocol

import torch
from torch import Tensor, nn


class HeadSizes(Protocol):
    input_dim: int | None
    hidden_dim: int
    output_dim: int


class MLP(nn.Sequential):
    """Linear, BatchNorm, ReLU, Linear over the last axis; without `norm` no BatchNorm.

    Rows of all images and regions share the normalisation: (N, M, D) is flattened to (N M, D) for it. With `per_slot`, the
    m-th regions of all images share one, (N, D), and the running statistics move M times a pass.

    Source: BYOL, section 3.3; R2O, section 4.1 (hidden 4096, output 256). Without norm: MoCo v2 (hidden 2048, output 128).
    Without `output_bias`: ORL's release. With `per_slot`: CYBORGS' release.
    """

    def __init__(
        self,
        input_dim: int,
        *,
        hidden_dim: int,
        output_dim: int,
        norm: bool = True,
        output_bias: bool = True,
        per_slot: bool = False,
    ):
        super().__init__(
            nn.Linear(input_dim, hidden_dim),
            *([nn.BatchNorm1d(hidden_dim)] if norm else []),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_dim, output_dim, bias=output_bias),
        )
        self.per_slot = per_slot

    def forward(self, x: Tensor) -> Tensor:
        if self.per_slot:
            assert x.ndim == 3, "slots are the middle axis of (N, M, D)"
            run = super().forward
            return torch.stack([run(slot) for slot in x.unbind(1)], dim=1)
        return super().forward(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


def make_heads(
    channels: int, projection: HeadSizes, predictor: HeadSizes | None, **options: bool
) -> tuple[MLP, MLP | None]:
    """A projector from a trunk level's channels, and a predictor from the projector's output to its like, if one is wanted.

    Args:
        options: `norm`, `output_bias` and `per_slot` of both.
    Raises:
        ValueError: where an `input_dim` that was given is not what comes in, or the predictor's output is not comparable.
    """
    projector = _make_head("projection", projection, channels, options)
    if predictor is None:
        return projector, None
    if predictor.output_dim != projection.output_dim:
        raise ValueError(
            f"model.predictor.output_dim: {predictor.output_dim}, but it predicts a projection of "
            f"model.projection.output_dim = {projection.output_dim}"
        )
    return projector, _make_head("predictor", predictor, projection.output_dim, options)


def _make_head(key: str, sizes: HeadSizes, channels: int, options: dict[str, bool]) -> MLP:
    if sizes.input_dim not in (None, channels):
        raise ValueError(
            f"model.{key}.input_dim: {sizes.input_dim}, but {channels} channels come in; leave the key out"
        )
    return MLP(channels, hidden_dim=sizes.hidden_dim, output_dim=sizes.output_dim, **options)


def start_as_kaiming(head: MLP) -> None:
    """Draw weights as the released BYOL and ORL do: normal by the number of inputs, biases 0."""
    for layer in head:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
