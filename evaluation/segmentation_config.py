"""The schema of a segmentation's config; the sections that every evaluator has are in evaluation/settings.py."""

from typing import Literal

from pydantic import Field, model_validator

from data.cityscapes import CITYSCAPES_CLASSES
from data.voc import VOC_CLASSES
from evaluation.settings import Count, Network, TrainData, TrainedEvaluator
from utils.config import Section

Sides = tuple[Count, Count]


class Head(Section):
    channels: int = Field(256, ge=1, description="Of its convolutions.")
    num_convs: int = Field(2, ge=1, description="3x3 convolutions before the scores.")
    dilation: int = Field(6, ge=1, description="Of those convolutions.")
    concat: bool = Field(False, description="One more convolution sees the features beside what became of them.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of the channels dropped in training.")


class Auxiliary(Head):
    weight: float = Field(0.4, gt=0, description="Of its loss.")


class Model(Network):
    output_stride: int = Field(16, ge=1, description="C5's stride: beyond it the stages dilate instead.")
    head: Head = Head()
    auxiliary: Auxiliary | None = Field(None, description="A second head, on C4, that only helps to train.")
    align_corners: bool = Field(False, description="How scores are enlarged.")


class Part(Section):
    split: str = Field(description="A list in ImageSets/Segmentation, or a folder below leftImg8bit.")
    labels: str = Field("SegmentationClass", description="VOC's layout only: the folder of the labels.")


class Slide(Section):
    window: Sides = Field(description="(height, width) in pixels.")
    step: Sides = Field(description="From window to window, down and to the right.")


class SegmentationData(TrainData):
    layout: Literal["voc", "cityscapes"] = Field("voc", description="How the folder is laid out.")
    classes: list[str] = Field(list(VOC_CLASSES), description="VOC's layout only: names, the background left out.")
    train: list[Part] = Field([Part(split="train")], min_length=1, description="What is trained on.")
    test: Part = Field(Part(split="val"), description="What is judged on.")
    size: Sides | None = Field(None, description="(long, short) sides that images are made to fit; empty keeps theirs.")
    scale: tuple[float, float] = Field((0.5, 2.0), description="Range of the random factor of training images.")
    crop: Sides = Field((513, 513), description="(height, width) of a training view.")
    max_class_share: float = Field(
        1.0, gt=0, le=1, description="Another crop is tried, ten times, where one class fills this share; 1: never."
    )
    flip_probability: float = Field(0.5, ge=0, le=1, description="Chance that a view is mirrored.")
    distortion: bool = Field(False, description="Vary brightness, contrast, saturation and hue.")
    slide: Slide | None = Field(None, description="Judge in overlapping windows; empty: whole images.")

    @property
    def class_names(self) -> list[str]:
        """In the order of their numbers."""
        return ["background", *self.classes] if self.layout == "voc" else list(CITYSCAPES_CLASSES)

    @model_validator(mode="after")
    def _scale_rises(self) -> "SegmentationData":
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"data.scale: {list(self.scale)} must be two rising positive numbers")
        return self


class Loss(Section):
    divide_by_void: bool = Field(
        True, description="The mean is over all pixels, void ones too (as 0), as MMSegmentation has it."
    )


class SegmentationConfig(TrainedEvaluator):
    model: Model = Model()
    data: SegmentationData
    loss: Loss = Loss()
