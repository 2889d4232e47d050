"""Fine-tune and judge detectron2's detectors on a converted backbone; see README.md beside this file.

Adds to detectron2 what the protocols here need: BatchNorm after res5 (R50-C4), large-scale jitter to a fixed square, and
the evaluators of COCO and of PASCAL VOC.
"""

import os
from collections import OrderedDict

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetMapper, build_detection_test_loader, build_detection_train_loader
from detectron2.data import transforms as T
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup, launch
from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator
from detectron2.layers import get_norm
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads
from torch import nn


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsWithNorm(Res5ROIHeads):
    """R50-C4's box head with BatchNorm after res5.

    Source: MoCo, appendix "PASCAL VOC object detection". The layer is called `res5.norm`, as in MoCo's release, so that its
    detectors load.
    """

    def __init__(self, cfg, input_shape):
        super().__init__(cfg, input_shape)
        norm = get_norm(cfg.MODEL.RESNETS.NORM, self.res5[-1].out_channels)
        self.res5 = nn.Sequential(OrderedDict([*self.res5.named_children(), ("norm", norm)]))


def add_keys(cfg: CfgNode) -> None:
    """The config's keys that detectron2 does not have."""
    jitter = CfgNode()
    jitter.ENABLED = False
    # Pixels: an image's long side at scale 1, and the side of the square that training crops or pads it to.
    jitter.SIZE = 1024
    jitter.SCALE = (0.8, 1.25)
    cfg.INPUT.LARGE_SCALE_JITTER = jitter


def load_config(path: str, options: list[str] | None = None) -> CfgNode:
    """Read a config file; `options` are keys and values in turn that go before it."""
    cfg = get_cfg()
    add_keys(cfg)
    cfg.merge_from_file(path)
    cfg.merge_from_list(options or [])
    return cfg


def jittered(cfg: CfgNode, *, training: bool) -> list[T.Augmentation]:
    """Large-scale jitter.

    Returns:
        In training, a mirrored half and a random scale about the long side, cropped or padded to the square; in testing, the
        long side at the square's side, unpadded, as padding would move the boxes that are scaled back to the image.
    """
    side = cfg.INPUT.LARGE_SCALE_JITTER.SIZE
    low, high = cfg.INPUT.LARGE_SCALE_JITTER.SCALE
    if not training:
        return [T.ResizeScale(1.0, 1.0, side, side)]
    return [T.RandomFlip(0.5), T.ResizeScale(low, high, side, side), T.FixedSizeCrop((side, side))]


def build_mapper(cfg: CfgNode, *, training: bool) -> DatasetMapper:
    if not cfg.INPUT.LARGE_SCALE_JITTER.ENABLED:
        return DatasetMapper(cfg, training)
    # A crop cuts objects: their boxes are drawn again around what is left of their masks.
    return DatasetMapper(
        cfg,
        training,
        augmentations=jittered(cfg, training=training),
        recompute_boxes=training and cfg.MODEL.MASK_ON,
    )


class Trainer(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(cfg, mapper=build_mapper(cfg, training=True))

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return build_detection_test_loader(cfg, dataset_name, mapper=build_mapper(cfg, training=False))

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        if dataset_name.startswith("voc"):
            return PascalVOCDetectionEvaluator(dataset_name)
        return COCOEvaluator(dataset_name, output_dir=output_folder or os.path.join(cfg.OUTPUT_DIR, "inference"))


def main(args):
    cfg = load_config(args.config_file, args.opts)
    if not (cfg.MODEL.WEIGHTS or args.resume):
        raise SystemExit("MODEL.WEIGHTS is empty: give what `evaluation.convert --to detectron2` wrote, or UNTRAINED")
    if cfg.MODEL.WEIGHTS == "UNTRAINED":
        cfg.MODEL.WEIGHTS = ""
    cfg.freeze()
    default_setup(cfg, args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        return Trainer.test(cfg, model)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    arguments = default_argument_parser().parse_args()
    launch(
        main,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(arguments,),
    )
