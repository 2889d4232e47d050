"""The schema of an ORL config; the sections that every method has are in utils/sections.py."""

from typing import Any, Literal

from pydantic import Field, model_validator

from utils.config import Section, unused
from utils.sections import Common, Data, Optimizer, TwoNetworks

Span = tuple[float, float]


class Model(TwoNetworks):
    variant: Literal["orl", "byol"] = Field("orl", description="All stages, or BYOL on whole images alone.")
    joint_views: bool = Field(False, description="BatchNorm sees both views together; as released, each on its own.")
    init: str | None = Field(
        None,
        description="A checkpoint of any method here, or a `backbone.pth`, in whose features neighbours and boxes are "
        "compared: it takes the place of stage 1.",
    )


class ORLData(Data):
    patch_size: int = Field(96, ge=8, description="Side of a cut-out box in stage 3, in pixels.")
    mask_dir: Any = unused("boxes need no label maps")
    mask_type: Any = unused("boxes need no label maps")


class Proposals(Section):
    dir: str | None = Field(None, description="Where the found boxes are kept; by default `image_dir`/proposals.")
    max_side: int | None = Field(
        None, ge=16, description="Search images shrunk to this longer side, in pixels; as released, at their own size."
    )
    min_size: int = Field(96, ge=1, description="Least width and height of a box, in pixels of the image.")
    max_ratio: float = Field(3, ge=1, description="Most that a box's longer side may be of its shorter one.")
    max_iou: float = Field(0.5, gt=0, le=1, description="Boxes that overlap an earlier one by more are left out.")
    top_n: int = Field(100, ge=1, description="Boxes kept an image, the first ones.")


class Neighbours(Section):
    count: int = Field(10, ge=1, description="Nearest images of an image.")
    batch_size: int = Field(256, ge=1, description="Images embedded together.")
    memory_mb: int = Field(1024, ge=16, description="Memory for similarities, a process.")


class Pairs(Section):
    share: float = Field(
        0.1, gt=0, le=1, description="Pairs kept with each neighbour, as a share of the image's boxes; at least one."
    )
    patch_size: int = Field(224, ge=8, description="Side of a cut-out box that is embedded, in pixels.")
    batch_size: int = Field(256, ge=1, description="Boxes embedded together.")
    store: Literal["float16", "float32"] = Field(
        "float16", description="How features of boxes are kept on disk meanwhile."
    )
    parts: int = Field(
        1,
        ge=1,
        description="Match the images in this many parts, with only the features on disk that a part needs: less disk, more "
        "forward passes.",
    )


class Jitter(Section):
    shift: float = Field(0.5, ge=0, description="Most that a box's centre moves, in widths and heights of the box.")
    scale: Span = Field((0.5, 2.0), description="Share of the box's area, from and to.")
    ratio: Span = Field((0.5, 2.0), description="Width / height of the jittered box, from and to.")
    min_iou: float = Field(0.5, ge=0, lt=1, description="What it must overlap its box by, at least.")
    attempts: int = Field(200, ge=1, description="Draws before the box itself is taken.")

    @model_validator(mode="after")
    def _spans_rise(self) -> "Jitter":
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"jitter.{name}: [{low}, {high}] must be two rising positive numbers")
        return self


class Files(Section):
    """Published files, or ours, that take the place of a part of stage 2."""

    neighbours: str | None = Field(None, description="JSON of each image's nearest ones.")
    proposals: list[str] = Field(
        [], description="JSON of all found boxes; several (COCO+) are read one after the other."
    )
    names: list[str] = Field(
        [],
        description="JSON whose `images` are in the order of `proposals`, such as COCO's annotations, one after the other; by "
        "default `neighbours`.",
    )
    correspondence: str | None = Field(
        None, description="JSON of boxes, neighbours and pairs: stages 1 and 2 are not needed."
    )


class Loss(Section):
    global_weight: float = Field(1, ge=0, description="Weight of the pairs of whole images.")
    intra_weight: float = Field(1, ge=0, description="Weight of the pairs of a box and its jitter.")
    inter_weight: float = Field(1, ge=0, description="Weight of the pairs of boxes of two images.")


class ORLOptimizer(Optimizer):
    type: Literal["lars", "sgd", "adamw"] = Field("sgd", description="Optimiser.")
    base_lr: float = Field(
        0.2, gt=0, description="Learning rate at a global batch of 256; scaled linearly to the real one."
    )
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay.")
    total_epochs: int = Field(800, ge=1, description="Length of stage 3 and of its schedules.")
    stage1_epochs: int | None = Field(None, ge=1, description="Length of stage 1; by default as long as stage 3.")
    warmup_epochs: float = Field(4, ge=0, description="Linear warm-up from 0.")
    exclude_bias_and_bn: bool = Field(False, description="No decay of biases and norm parameters.")


class ORLConfig(Common):
    model: Model = Model()
    data: ORLData
    proposals: Proposals = Proposals()
    neighbours: Neighbours = Neighbours()
    pairs: Pairs = Pairs()
    files: Files = Files()
    jitter: Jitter = Jitter()
    loss: Loss = Loss()
    optimizer: ORLOptimizer = ORLOptimizer()

    @model_validator(mode="after")
    def _stage_1_warms_up(self) -> "ORLConfig":
        epochs, warmup = self.optimizer.stage1_epochs, self.optimizer.warmup_epochs
        if epochs is not None and warmup > epochs:
            raise ValueError(f"optimizer.warmup_epochs: {warmup} is more than optimizer.stage1_epochs: {epochs}")
        return self

    @model_validator(mode="after")
    def _boxes_keep_their_pixels(self) -> "ORLConfig":
        if self.data.dct_scaling and self.model.variant == "orl":
            raise ValueError(
                "data.dct_scaling: true, but ORL cuts small boxes out of images and needs their every pixel; leave it "
                "false, or set model.variant: byol"
            )
        return self

    @model_validator(mode="after")
    def _weighs_something(self) -> "ORLConfig":
        if self.loss.global_weight + self.loss.intra_weight + self.loss.inter_weight == 0:
            raise ValueError("loss.global_weight, intra_weight and inter_weight are all 0: nothing would be learned")
        return self


def image_level(config: ORLConfig) -> ORLConfig:
    """The config of stage 1: BYOL alone, for its own number of epochs."""
    epochs = config.optimizer.stage1_epochs or config.optimizer.total_epochs
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"variant": "byol"}),
            "optimizer": config.optimizer.model_copy(update={"total_epochs": epochs}),
        }
    )
