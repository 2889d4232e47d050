"""The schema of a ReSim config; the sections that every method has are in utils/sections.py."""

from typing import Any, Literal

from pydantic import Field, model_validator

from utils.config import Section, unused
from utils.sections import Amp, Common, Data, Head, Optimizer, SlowAverage


class PlainHead(Head):
    type: Literal["MLP"] = Field("MLP", description="Linear, ReLU, Linear.")
    hidden_dim: int = Field(2048, ge=1, description="Hidden units.")
    output_dim: int = Field(128, ge=1, description="Outputs.")


class Model(SlowAverage):
    variant: Literal["fpn", "c4", "mocov2"] = Field(
        "fpn", description="Windows on C4 and C3 of an FPN, windows on C4 alone, or none, which is MoCo v2."
    )
    base_momentum: float = Field(0.999, ge=0, le=1, description="Momentum of the key network; it stays.")
    projection: PlainHead = PlainHead()
    queue_size: int = Field(
        65536, ge=1, description="Keys kept as negatives; a multiple of processes x `train_batch_size`."
    )
    fpn_channels: int = Field(256, ge=1, description="Channels of the features in which windows are compared.")
    fpn_norm: bool = Field(False, description="BatchNorm after the FPN's convolutions.")


class ReSimData(Data):
    flip_probability: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Chance that a view is mirrored; ReSim mirrors both of an image alike, MoCo v2 each on its own.",
    )
    min_crop: float = Field(0.2, gt=0, le=1, description="Smallest share of the image's area that a view may show.")
    photometric: Literal["byol", "mocov2"] = Field(
        "mocov2", description="How the colours of views change: as BYOL's two views, or as MoCo v2's."
    )
    mask_dir: Any = unused("windows need no label maps")
    mask_type: Any = unused("windows need no label maps")


class C4Windows(Section):
    size: int = Field(48, ge=1, description="Side of a window, in pixels of a view.")
    stride: int = Field(32, ge=1, description="Pixels from one window to the next.")
    gather: bool = Field(True, description="Negatives from the images of all processes, or of each process alone.")


class C3Windows(C4Windows):
    size: int = Field(32, ge=1, description="Side of a window on C3.")
    stride: int = Field(24, ge=1, description="Pixels from one to the next.")
    gather: bool = Field(False, description="As for C4; the release gathers C4's alone.")


class Loss(Section):
    temperature: float = Field(0.2, gt=0, description="Divides the similarities, those of images and of windows.")
    c4: C4Windows = C4Windows()
    c3: C3Windows = C3Windows()
    gather_dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="What the windows' gathered negatives travel in: bfloat16 halves the bytes and rounds them to 3 digits; the "
        "loss is computed in float32.",
    )


class ReSimAmp(Amp):
    sync_bn: bool = Field(
        False,
        description="BatchNorm over all processes. Without it each process normalises its own images, and key images change "
        "places between processes first (shuffled BatchNorm). One process can do neither.",
    )


class ReSimOptimizer(Optimizer):
    type: Literal["lars", "sgd", "adamw"] = Field("sgd", description="Optimiser.")
    base_lr: float = Field(
        0.03, gt=0, description="Learning rate at a global batch of 256; scaled linearly to the real one."
    )
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay.")
    total_epochs: int = Field(200, ge=1, description="Length of the run and of every schedule.")
    warmup_epochs: float = Field(0, ge=0, description="Linear warm-up from 0.")
    exclude_bias_and_bn: bool = Field(False, description="No decay of biases and norm parameters.")


class ReSimConfig(Common):
    model: Model = Model()
    data: ReSimData
    loss: Loss = Loss()
    optimizer: ReSimOptimizer = ReSimOptimizer()
    amp: ReSimAmp = ReSimAmp()

    @model_validator(mode="after")
    def _windows_slide(self) -> "ReSimConfig":
        for level in window_levels(self.model.variant):
            size = getattr(self.loss, level).size
            if size >= self.data.resize_size:
                raise ValueError(
                    f"loss.{level}.size: {size} px do not slide over a view of data.resize_size: "
                    f"{self.data.resize_size} px; make the windows smaller"
                )
        return self


def window_levels(variant: str) -> tuple[str, ...]:
    """The levels of features in which a variant compares windows."""
    return {"fpn": ("c4", "c3"), "c4": ("c4",), "mocov2": ()}[variant]
