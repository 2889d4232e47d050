"""The schema of a CYBORGS config; the sections that every method has are in utils/sections.py."""

from typing import Literal

from pydantic import Field, model_validator

from detconb_config import MaskedData
from utils.config import Section
from utils.sections import Common, Count, TwoNetworks

LevelName = Literal["c2", "c3", "c4", "c5"]


class Model(TwoNetworks):
    base_momentum: float = Field(
        0.996, ge=0, le=1, description="Momentum of the target, from the first step to the last."
    )
    levels: list[LevelName] = Field(
        ["c3", "c4", "c5"],
        min_length=1,
        description="Levels whose features are joined, averaged to the last one's grid, which is that of the masks.",
    )
    joint_views: bool = Field(False, description="BatchNorm sees both views together; as released, each on its own.")
    norm_per_slot: bool = Field(
        False,
        description="BatchNorm of the heads sees one drawn region of all images at a time, as released, instead of all regions.",
    )

    @model_validator(mode="after")
    def _levels_rise(self) -> "Model":
        if self.levels != sorted(set(self.levels)):
            raise ValueError(f"model.levels: {self.levels} must rise, each level once")
        return self


class BootstrappedData(MaskedData):
    mask_type: str = Field(
        "fh",
        description="Label maps of the first generation: a folder below `mask_dir` made by `tools.make_masks`, such as fh; a "
        "grid, such as grid3x3, is made where it is missing.",
    )
    scramble_masks: bool = Field(
        False, description="An ablation: draw each pixel's label at random among those of its image."
    )


class Bootstrap(Section):
    boot_freq: int = Field(
        100, ge=1, description="Epochs of a generation of masks; the checkpoint that it is made of is kept for good."
    )
    layer_name: str = Field(
        "layer2.2", description="Where the features to be clustered come from: a block of a stage, or a stage (layer3)."
    )
    imgs_per_batch: int = Field(16, ge=1, description="Images whose features are clustered together.")
    min_clusters: int = Field(2, ge=2, description="Least number of clusters of such images, drawn at random.")
    max_clusters: int = Field(256, ge=2, description="Largest number of clusters of such images.")
    max_iter: int = Field(20, ge=1, description="Iterations of K-means at most.")
    first_weights: str | None = Field(
        None,
        description="A checkpoint of any method here, or a `backbone.pth`, whose features make the first generation, instead of "
        "`data.mask_type`.",
    )

    @model_validator(mode="after")
    def _clusters_rise(self) -> "Bootstrap":
        if self.min_clusters > self.max_clusters:
            raise ValueError(
                f"bootstrap.min_clusters: {self.min_clusters} is more than bootstrap.max_clusters: {self.max_clusters}"
            )
        return self


class Loss(Section):
    temperature: float = Field(0.1, gt=0, description="Divides the similarities.")
    mask_rois: int = Field(
        16, ge=1, description="Regions drawn a view among those it shows, each once where there are enough."
    )
    shared_regions: bool = Field(
        True, description="One draw of regions for online and target network; the release draws twice."
    )
    vmf_weight: float = Field(
        0, ge=0, description="Weight of the von Mises-Fisher clustering loss; 0, as published, leaves it out."
    )
    vmf_temperature: float = Field(0.1, gt=0, description="Divides its similarities.")
    vmf_epochs: Count = Field(1, description="It counts in every so many-th epoch.")
    vmf_released_sign: bool = Field(
        False,
        description="Its release: cells are pushed off their centroid, centroids keep their length, and clusters of two views "
        "are taken for each other by their number.",
    )


class CyborgsConfig(Common):
    model: Model = Model()
    data: BootstrappedData
    bootstrap: Bootstrap = Bootstrap()
    loss: Loss = Loss()
    baseline: bool = Field(False, description="The first generation of masks stays throughout.")
