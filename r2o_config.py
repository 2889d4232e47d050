"""The schema of an R2O config; the sections that every method has are in utils/sections.py."""

from typing import Any, Literal

from pydantic import Field, model_validator

from engine.schedules import check_cluster_schedule
from utils.config import Section, unused
from utils.sections import Common, Data, Optimizer, TwoNetworks


class Model(TwoNetworks):
    region_level: Literal["c2", "c3", "c4", "c5"] = Field("c5", description="Features compared in the regions.")
    cluster_level: Literal["c2", "c3", "c4", "c5"] = Field(
        "c4", description="The target's features that refine the regions."
    )


class ClusterSchedule(Section):
    type: Literal["constant", "piecewise", "linear", "cosine"] = Field(
        "cosine", description="How K changes over epochs."
    )
    epochs: list[int] = Field([0, 300], description="Epochs of the points.")
    values: list[float] = Field([128, 4], description="K at the points; more than 128 means no clustering.")

    @model_validator(mode="after")
    def _points_fit(self) -> "ClusterSchedule":
        check_cluster_schedule(type=self.type, epochs=self.epochs, values=self.values)
        return self


class Clustering(Section):
    scheduler: ClusterSchedule = ClusterSchedule()
    images_per_kmeans: int = Field(32, ge=1, description="Images whose superpixels are clustered together.")
    max_iter: int = Field(25, ge=1, description="Iterations of K-means at most.")
    region_size: int = Field(56, ge=1, description="Side of the maps of regions, in cells over the whole image.")
    soft_labels: bool = Field(False, description="Average cluster numbers at borders, as the release does.")


class R2OData(Data):
    superpixels: Literal["cached", "online"] = Field(
        "cached", description="Label maps made once, or SLIC in the workers."
    )
    slic_segments: int = Field(100, ge=1, description="Superpixels asked of SLIC.")
    superpixel_size: int = Field(224, ge=8, description="Side at which SLIC sees the image.")
    overlap_indicator: bool = Field(True, description="Compare only regions that both views show.")
    weight: bool = Field(False, description="Weigh regions by their area.")
    mask_type: Any = unused("R2O's regions begin as superpixels")
    n_kmeans: Any = unused("clustering.scheduler says how many clusters")


class R2OOptimizer(Optimizer):
    scale_lr_by_k: float | None = Field(
        None, gt=0, description="Multiply the rate by K / this while there is clustering."
    )


class R2OConfig(Common):
    model: Model = Model()
    clustering: Clustering = Clustering()
    data: R2OData
    optimizer: R2OOptimizer = R2OOptimizer()

    @model_validator(mode="after")
    def _parts_fit(self) -> "R2OConfig":
        if self.model.cluster_level > self.model.region_level:
            raise ValueError(
                f"model.cluster_level: {self.model.cluster_level} lies above model.region_level: {self.model.region_level}, "
                "whose training it would not see; use the same level or a lower one"
            )
        return self
