"""The sections of an evaluator's config. What an evaluator adds stands beside its program."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from utils.config import Section
from utils.sections import Amp, Backbone, Checkpoint, Log

Count = Annotated[int, Field(ge=1)]


class Network(Section):
    """The backbone that is judged."""

    backbone: Backbone = Backbone()
    weights: str | None = Field(
        None,
        description="A run's folder, or any checkpoint that `evaluation.convert` reads; empty for the untrained backbone. What "
        "says itself which backbone it holds (a run, a checkpoint of these programs) goes before `model.backbone`.",
    )
    network: Literal["online", "target"] = Field("online", description="Which of a checkpoint's two networks.")
    recalibrate_norm: bool = Field(
        False,
        description="Where the backbone stays frozen: take its BatchNorm statistics anew from training images. An untrained "
        "backbone's are made up, and would make it a weaker rival than it is.",
    )


class JudgedData(Section):
    dir: str = Field(description="The dataset's folder.")
    data_workers: int = Field(4, ge=0, description="Worker processes that read images, for each process.")
    val_batch_size: int = Field(32, ge=1, description="Images a process and batch where nothing is trained.")


class TrainData(JudgedData):
    train_batch_size: int = Field(32, ge=1, description="Images a process and micro-batch.")
    max_bad_fraction: float = Field(
        0.0, ge=0, le=1, description="Share of unreadable images past which training stops."
    )


class Solver(Section):
    """How a model is trained on labels."""

    type: Literal["sgd", "adamw", "lars"] = Field("sgd", description="Optimiser.")
    base_lr: float = Field(gt=0, description="Learning rate at a global batch of `base_batch`; scaled linearly.")
    base_batch: int = Field(256, ge=1, description="Global batch that `base_lr` is meant for.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd and lars.")
    nesterov: bool = Field(False, description="Of sgd and lars.")
    weight_decay: float = Field(0, ge=0, description="Weight decay.")
    decay_norm: bool = Field(True, description="Decay biases and norm parameters too.")
    schedule: Literal["steps", "cosine", "poly", "constant"] = Field(
        "steps", description="Steps: times `drop` at each of `milestones`; poly: (1 - progress) to the power 0.9."
    )
    drop: float = Field(0.1, gt=0, lt=1, description="What `steps` multiplies the rate by.")
    total_epochs: int | None = Field(None, ge=1, description="Length of the run; this or `total_steps`.")
    total_steps: int | None = Field(None, ge=1, description="Length of the run in optimiser steps.")
    milestones: list[Count] = Field([], description="Where `steps` lowers the rate, in the unit of the length.")
    warmup_steps: int = Field(0, ge=0, description="Optimiser steps of linear warm-up.")
    warmup_start: float = Field(0, ge=0, le=1, description="Share of the peak rate that the warm-up begins at.")
    final_lr: float = Field(0, ge=0, description="Rate that `cosine` and `poly` never fall below.")
    accumulate_steps: int = Field(1, ge=1, description="Micro-batches an optimiser step.")
    head_lr_scale: float = Field(1, gt=0, description="Rate of what is new, as a multiple of the backbone's.")

    @model_validator(mode="after")
    def _has_one_length(self) -> "Solver":
        if (self.total_epochs is None) == (self.total_steps is None):
            raise ValueError("optimizer: give one of total_epochs and total_steps, and not both")
        length = self.total_epochs or self.total_steps
        if self.milestones != sorted({place for place in self.milestones if place < length}):
            raise ValueError(f"optimizer.milestones: {self.milestones} must rise and stay below the length: {length}")
        if self.milestones and self.schedule != "steps":
            raise ValueError(f"optimizer.milestones: {self.milestones}, but optimizer.schedule: {self.schedule}")
        if self.final_lr and self.schedule not in ("cosine", "poly"):
            raise ValueError(f"optimizer.final_lr: {self.final_lr}, but optimizer.schedule: {self.schedule} has no end")
        if self.total_steps is not None and self.warmup_steps > self.total_steps:
            raise ValueError(
                f"optimizer.warmup_steps: {self.warmup_steps} is more than optimizer.total_steps: {self.total_steps}"
            )
        return self


class Evaluator(Section):
    """What every evaluator's config has."""

    model: Network = Network()
    data: JudgedData
    amp: Amp = Amp()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    seed: int = Field(0, ge=0, description="Everything random derives from it.")
    threads: int | None = Field(None, ge=1, description="CPU threads of a process, by default one a core.")
    distributed: bool | None = Field(None, description="False refuses to run as one of several processes.")
    timeout_minutes: float | None = Field(
        30,
        gt=0,
        description="Several processes: minutes after which one that is missing, lost or stuck in a step ends the run, by name; "
        "empty leaves it to NCCL and gloo.",
    )


class TrainedEvaluator(Evaluator):
    """What the config of an evaluator has that trains on labels."""

    data: TrainData
    optimizer: Solver
