"""What the training loop and a method say to each other."""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Progress(NamedTuple):
    """How far a run is; schedules are functions of it."""

    step: int  # optimiser steps attempted so far, fp16's skipped ones too: data and schedules never drift apart
    total_steps: int
    epoch: int  # epochs finished


class Output(NamedTuple):
    """What one forward pass of a method gives."""

    losses: dict[str, Tensor]  # weighted scalars; the loop minimises their sum; the same keys on every step and rank
    metrics: dict[str, Tensor]  # detached scalars; logged, never optimised


class Method(Protocol):
    """An interface, not a framework: a method is an nn.Module with these, and inherits no logic."""

    backbone: nn.Module  # what outlives pretraining

    def before_step(self, progress: Progress) -> None:
        """Schedules and moving averages that belong before an optimiser step."""

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> Output:
        """Losses of a prepared batch; changes no parameter. `generator` is this step's, micro-batch's and rank's own."""

    def after_step(self, progress: Progress) -> None:
        """Schedules and moving averages that belong after an optimiser step."""
