"""The schema of a detection's config; the sections that every evaluator has are in evaluation/settings.py."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data.detection_views import LongSide, ShortSide, Sizing
from data.voc import VOC_CLASSES
from evaluation.settings import Count, Network, TrainData, TrainedEvaluator

Positive = Annotated[float, Field(gt=0)]


class Model(Network):
    detector: Literal["fpn", "c4"] = Field(
        "fpn", description="On a feature pyramid, or on C4 with the trunk's last stage and a norm as the box head."
    )
    masks: bool = Field(True, description="Mask R-CNN, else Faster R-CNN; `fpn` only.")
    neck: bool = Field(
        False, description="Begin the pyramid with the weights of the pretrained one (ReSim's), where there are."
    )
    fpn_channels: int = Field(256, ge=1, description="Of every level of the pyramid.")
    fpn_norm: bool = Field(True, description="BatchNorm after the pyramid's convolutions.")
    box_head: Literal["2fc", "4conv1fc"] = Field("2fc", description="Layers that classify a box; `fpn` only.")
    head_norm: bool = Field(True, description="BatchNorm after the convolutions of the box and mask heads.")
    head_width: int = Field(1024, ge=1, description="Of the box head's linear layers.")
    conv_width: int = Field(256, ge=1, description="Of the box and mask heads' convolutions.")
    anchor_sizes: list[Annotated[list[Positive], Field(min_length=1)]] = Field(
        [[32], [64], [128], [256], [512]],
        description="Pixels of the network's image: a list a level, C2 to C5 and the one above; one list for `c4`.",
    )
    anchor_ratios: list[Positive] = Field([0.5, 1, 2], min_length=1, description="Height / width.")
    proposals_train: tuple[Count, Count] = Field(
        (2000, 1000), description="Kept of a level before, and of an image after non-maximum suppression, in training."
    )
    proposals_test: tuple[Count, Count] = Field((1000, 1000), description="The same, in the test.")
    sampled_boxes: int = Field(512, ge=1, description="Proposals of an image that the heads are trained on.")
    pool_size: int = Field(7, ge=1, description="Cells of a pooled box along a side; twice as many for masks.")
    pool_cells: float = Field(
        14, gt=0, description="A box is cut out of the coarsest level with so many cells along it."
    )
    score_threshold: float = Field(0.05, ge=0, lt=1, description="Detections with a lower score are left out.")
    detections_per_image: int = Field(100, ge=1, description="The best so many are kept.")
    norm_steps: int = Field(
        0, ge=0, description="After training, batches on which BatchNorm's statistics are estimated anew (precise BN)."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "Model":
        levels = 5 if self.detector == "fpn" else 1
        if len(self.anchor_sizes) != levels:
            raise ValueError(
                f"model.anchor_sizes: {len(self.anchor_sizes)} lists, but model.detector: {self.detector} has {levels} levels"
            )
        if self.detector == "c4" and (self.masks or self.neck):
            raise ValueError(
                "model.detector: c4 has neither masks nor a pyramid; set model.masks and model.neck: false"
            )
        return self


class DetectionData(TrainData):
    layout: Literal["coco", "voc"] = Field("coco", description="How the folder is laid out.")
    classes: list[str] = Field(list(VOC_CLASSES), description="VOC's layout only: names, in order.")
    train: list[str] = Field(
        ["train2017"], min_length=1, description="COCO: a split. VOC: FOLDER/SPLIT each, such as VOC2007/trainval."
    )
    val: str = Field("val2017", description="What is tested on; the same form.")
    eleven_points: bool = Field(True, description="VOC's layout only: the metric of VOC 2007, not that of later years.")
    sizing: Literal["short", "long"] = Field(
        "short", description="`short`: the shorter side is one of `sides`; `long`: large-scale jitter on a square."
    )
    sides: list[Count] = Field(
        [640, 672, 704, 736, 768, 800],
        min_length=1,
        description="`short`: the shorter side in training, one at random.",
    )
    test_side: int = Field(800, ge=1, description="`short`: the shorter side in the test.")
    longest: int = Field(1333, ge=1, description="`short`: the longer side is at most this.")
    square: int = Field(1024, ge=1, description="`long`: side of the square, and of the longer side in the test.")
    scale: tuple[Positive, Positive] = Field(
        (0.8, 1.25), description="`long`: range of the longer side, times `square`."
    )
    flip_probability: float = Field(0.5, ge=0, le=1, description="Chance that a training image is mirrored.")
    keep_empty: bool = Field(False, description="Train on images without objects too.")

    @model_validator(mode="after")
    def _can_be_read(self) -> "DetectionData":
        if self.layout == "coco" and len(self.train) > 1:
            raise ValueError(f"data.train: {self.train}, but COCO's layout takes one split")
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"data.scale: {list(self.scale)} must rise")
        return self

    @property
    def train_sizing(self) -> Sizing:
        if self.sizing == "short":
            return ShortSide(tuple(self.sides), self.longest)
        return LongSide(self.square, self.scale, canvas=True)

    @property
    def test_sizing(self) -> Sizing:
        return ShortSide((self.test_side,), self.longest) if self.sizing == "short" else LongSide(self.square)


class DetectionConfig(TrainedEvaluator):
    model: Model = Model()
    data: DetectionData

    @model_validator(mode="after")
    def _has_masks(self) -> "DetectionConfig":
        if self.model.masks and self.data.layout == "voc":
            raise ValueError("model.masks: VOC's layout has boxes alone here; set it to false")
        return self
