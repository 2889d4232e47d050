"""The sections of a config that every method has. A method's own keys stand beside its main."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from utils.config import Section, unused

Count = Annotated[int, Field(ge=1)]
# What torch.compile's modes replay as CUDA graphs on a GPU.
CUDA_GRAPHS = ("reduce-overhead", "max-autotune")


class Backbone(Section):
    type: str = Field(
        "resnet50", description="A torchvision ResNet by name, or `resnet_tiny` for small images and CPUs."
    )
    pretrained: bool | str = Field(
        False, description="torchvision's ImageNet weights, or the path of a `backbone.pth`."
    )
    width: int = Field(16, ge=1, description="`resnet_tiny` only: channels of its first stage.")
    blocks: list[Count] = Field(
        [1, 1, 1, 1], min_length=4, max_length=4, description="`resnet_tiny` only: residual blocks a stage."
    )
    strides: list[Count] = Field(
        [1, 1, 2, 2, 2],
        min_length=5,
        max_length=5,
        description="`resnet_tiny` only: strides of the stem and the four stages.",
    )


class Head(Section):
    type: Literal["MLP"] = Field("MLP", description="Linear, BatchNorm, ReLU, Linear.")
    input_dim: int | None = Field(None, ge=1, description="Must equal what comes in; empty takes that.")
    hidden_dim: int = Field(4096, ge=1, description="Hidden units.")
    output_dim: int = Field(256, ge=1, description="Outputs.")


class SlowAverage(Section):
    """The model of a method that compares a network with its slow average."""

    base_momentum: float = Field(
        0.99, ge=0, le=1, description="Momentum of the target at the start; rises to 1 by a cosine."
    )
    momentum_reference_batch: int | None = Field(
        None,
        ge=1,
        description="Global batch that base_momentum is meant for: another batch B takes it to the power B / this.",
    )
    backbone: Backbone = Backbone()
    projection: Head = Head()
    compile: Literal[False, "default", "reduce-overhead", "max-autotune"] = Field(
        False,
        description="torch.compile of trunk and heads, in this mode; the last two run CUDA graphs on a GPU. The first step takes "
        "minutes; results equal false's to rounding. Little is gained where BatchNorm is synchronised: each is a break.",
    )


class TwoNetworks(SlowAverage):
    """The model of a method whose network predicts what its slow average says."""

    predictor: Head = Head()
    joint_views: bool = Field(True, description="BatchNorm sees both views together, as released.")


class Amp(Section):
    sync_bn: bool = Field(True, description="BatchNorm over all processes, on GPUs and CPUs.")
    opt_level: Literal["O0", "O1", "O2"] = Field(
        "O0", description="O0: float32; O1: autocast; O2: as O1, with a warning."
    )
    dtype: Literal["bfloat16", "float16"] = Field("bfloat16", description="The low precision of O1 and O2.")
    backend: Literal["native", "apex"] = Field(
        "native", description="torch.amp, or an installed NVIDIA Apex with apex.amp."
    )


class Data(Section):
    image_dir: str = Field(
        description="Images below `images/SPLIT` or `SPLIT` in it, or else anywhere in it; or shards there, see docs/shards.md."
    )
    split: str = Field("train", description="Which split to train on.")
    subset: str = Field("", description="A list of class or file names: a text file, or a name in data/subsets/.")
    mask_dir: str | None = Field(
        None, description="Where label maps lie; by default in the shards, or `image_dir`/masks."
    )
    order: Literal["shuffled", "windows"] = Field(
        "shuffled",
        description="Each epoch shuffles all images; or the shards, and the images within windows of some shards.",
    )
    window_shards: int = Field(16, ge=1, description="With `windows`: shards that are read at a time.")
    resize_size: int = Field(224, ge=8, description="Side of a view, in pixels.")
    data_workers: int = Field(4, ge=0, description="Worker processes that read images, for each training process.")
    train_batch_size: int = Field(32, ge=1, description="Images a process and micro-batch.")
    flip_probability: float = Field(
        0.5, ge=0, le=1, description="Chance that a view is mirrored; the R2O release has 1."
    )
    min_crop: float = Field(0.08, gt=0, le=1, description="Smallest share of the image's area that a view may show.")
    grey_probability: float = Field(0.2, ge=0, le=1, description="Chance that a view loses its colours.")
    photometric: Literal["byol", "mocov2"] = Field(
        "byol", description="How the colours of views change: as BYOL's two views, or as MoCo v2's."
    )
    dct_scaling: bool = Field(
        False,
        description="Decode a JPEG at 1/2, 1/4 or 1/8 of its size where no view is larger than what it then is cut from: faster "
        "for photos well past 1,000 px; pixels differ a little. Not with ORL's patches.",
    )
    max_bad_fraction: float = Field(
        0.01, ge=0, le=1, description="Share of unreadable images past which training stops."
    )
    num_examples: int | None = Field(None, ge=1, description="Checked against the listing, which decides.")
    val_batch_size: Any = unused("probes and evaluators have their own batch sizes")
    dual_views: Any = unused("every method here compares two views")


class Optimizer(Section):
    type: Literal["lars", "sgd", "adamw"] = Field("lars", description="Optimiser.")
    base_lr: float = Field(
        0.3, gt=0, description="Learning rate at a global batch of 256; scaled linearly to the real one."
    )
    lr_type: Literal["cosine", "steps", "piecewise", "piecewise_released"] = Field(
        "cosine",
        description="Steps: /10 at each of `milestones`. Piecewise: /10 from 96 % of the steps, /100 from 98 %; the release "
        "never reaches /100.",
    )
    milestones: list[Count] = Field([120, 160], description="Epochs at which `steps` lowers the rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of lars and sgd.")
    weight_decay: float = Field(1e-6, ge=0, description="Weight decay.")
    total_epochs: int = Field(300, ge=1, description="Length of the run and of every schedule.")
    warmup_epochs: float = Field(3, ge=0, description="Linear warm-up.")
    warmup_start: float = Field(0, ge=0, le=1, description="Share of the peak rate that the warm-up begins at.")
    final_lr: float = Field(0, ge=0, description="Rate that `cosine` ends at.")
    clip_norm: float | None = Field(
        None, gt=0, description="Gradients longer than this, all together, are shortened to it."
    )
    exclude_bias_and_bn: bool = Field(True, description="No decay and no adaptation of biases and norm parameters.")
    decay_stem_norm: bool = Field(False, description="Decay the stem's norm weight all the same, as the releases do.")
    lars_variant: Literal["released", "deepmind", "cyborgs"] = Field(
        "released", description="Which LARS; see the README."
    )
    accumulate_steps: int = Field(
        1, ge=1, description="Micro-batches an optimiser step; they count in the global batch."
    )


class Checkpoint(Section):
    time_stamp: str | None = Field(None, description="Name of the run's folder; by default the time.")
    resume_path: str | None = Field(
        None, description="A checkpoint, a run's folder, or `auto` for the newest of this config."
    )
    save_epoch: int = Field(100, ge=1, description="Every so many epochs a checkpoint is kept for good.")
    save_minutes: float | None = Field(None, gt=0, description="Save within epochs too, this often.")
    keep_last: int = Field(2, ge=1, description="How many of the newest other checkpoints are kept.")
    ckpt_path: str | None = Field(None, description="Template with four slots: stamp, stamp, backbone, epoch.")


class Log(Section):
    log_step: int = Field(
        10, ge=1, description="Steps between log lines; also between checks that must not stall the GPU."
    )
    log_dir: str | None = Field(None, description="TensorBoard's folder; by default the run's.")
    enable_wandb: bool = Field(False, description="Log to Weights & Biases too (WANDB_MODE=offline works).")
    wandb_project: str = Field("region-object-pretraining", description="Project there.")
    num_pictures: int = Field(6, ge=0, description="Images drawn with their regions at every epoch.")
    log_all: Any = unused("rank 0 logs; averages are over all ranks")
    wandb_id: Any = unused("a run keeps its id in its folder")


class Common(Section):
    """The sections that every method has, some of which it adds to, and the switches of the releases that remain."""

    model: SlowAverage = SlowAverage()
    data: Data
    optimizer: Optimizer = Optimizer()
    amp: Amp = Amp()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    seed: int = Field(0, ge=0, description="Everything random derives from it.")
    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads of a training process, by default one a core: a tiny network in small batches can be faster "
        "with one.",
    )
    distributed: bool | None = Field(None, description="False refuses to run as one of several processes.")
    timeout_minutes: float | None = Field(
        30,
        gt=0,
        description="Several processes: minutes after which one that is missing, lost or stuck in a step ends the run, by name; "
        "empty leaves it to NCCL and gloo.",
    )
    stage: Any = unused("these programs only train")

    @model_validator(mode="after")
    def _warmup_ends(self) -> "Common":
        if self.optimizer.warmup_epochs > self.optimizer.total_epochs:
            raise ValueError(
                f"optimizer.warmup_epochs: {self.optimizer.warmup_epochs} is more than optimizer.total_epochs: "
                f"{self.optimizer.total_epochs}"
            )
        return self

    @model_validator(mode="after")
    def _graphs_keep_gradients(self) -> "Common":
        if self.model.compile in CUDA_GRAPHS and self.optimizer.accumulate_steps > 1:
            raise ValueError(
                f"model.compile: {self.model.compile} overwrites a micro-batch's gradients by the next one's, and "
                f"optimizer.accumulate_steps is {self.optimizer.accumulate_steps}: take `default`, or 1"
            )
        return self

    @model_validator(mode="after")
    def _rate_falls(self) -> "Common":
        settings = self.optimizer
        if settings.final_lr and settings.lr_type != "cosine":
            raise ValueError(
                f"optimizer.final_lr: {settings.final_lr}, but optimizer.lr_type: {settings.lr_type} has no end"
            )
        return self

    @model_validator(mode="after")
    def _milestones_pass(self) -> "Common":
        milestones, total = self.optimizer.milestones, self.optimizer.total_epochs
        if self.optimizer.lr_type == "steps" and milestones != sorted({n for n in milestones if n < total}):
            raise ValueError(
                f"optimizer.milestones: {milestones} must rise and stay below optimizer.total_epochs: {total}"
            )
        return self
