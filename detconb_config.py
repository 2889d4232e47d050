"""The schema of a DetCon config; the sections that every method has are in utils/sections.py."""

from typing import Literal

from pydantic import Field, model_validator

from utils.config import Section
from utils.sections import Common, Data, TwoNetworks


class Model(TwoNetworks):
    variant: Literal["b", "s"] = Field(
        "b",
        description="b: DetCon-B; s: DetCon-S, one network, so that base_momentum, momentum_reference_batch and predictor "
        "say nothing.",
    )
    fpn_channels: int | None = Field(
        None, ge=1, description="Channels of the FPN where there is one; by default C5's, as published."
    )


class MaskedData(Data):
    mask_type: str = Field(
        "fh", description="Label maps made by `tools.make_masks`: a folder below `mask_dir`, such as fh or grid3x3."
    )


class Loss(Section):
    temperature: float = Field(0.1, gt=0, description="Divides the similarities.")
    mask_rois: int = Field(16, ge=1, description="Regions drawn a view, with replacement, among those it shows.")
    pool_size: int = Field(
        7,
        ge=1,
        description="Side of the grid of masks: 7 pools C5 (of 224 px views), 14, 28 and 56 pool C4, C3, C2 of an FPN.",
    )
    shared_regions: bool = Field(
        True, description="One draw of regions for online and target network; the release draws twice."
    )


class DetConBConfig(Common):
    model: Model = Model()
    data: MaskedData
    loss: Loss = Loss()

    @model_validator(mode="after")
    def _variant_fits(self) -> "DetConBConfig":
        if self.model.variant == "s" and not self.loss.shared_regions:
            raise ValueError("loss.shared_regions: false, but model.variant: s has one network, which draws once")
        return self
