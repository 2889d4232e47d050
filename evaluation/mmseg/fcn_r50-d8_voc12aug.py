# FCN on ResNet-50 of output stride 8, PASCAL VOC 2012 with the extra annotations: MMSegmentation's own 20k schedule.
#
#   python -m evaluation.convert --to mmseg CHECKPOINT backbone_mmseg.pth
#   torchrun --nproc_per_node=4 evaluation/mmseg/train.py evaluation/mmseg/fcn_r50-d8_voc12aug.py --launcher pytorch \
#       --weights backbone_mmseg.pth --data data/VOCdevkit/VOC2012
#
# Source of the numbers: MMSegmentation 1.2.2, in the installed package: 20,000 iterations, 4 GPUs x 4 images, rate 0.01 falling
# as a polynomial, crops of 512. Differs: the trunk has torchvision's 7 x 7 stem (ResNet), as ours do, where that file has three
# 3 x 3 convolutions (ResNetV1c), and no weights of MMSegmentation's. It is no protocol of the papers here.
# Expected: with supervised ImageNet weights of ResNetV1c, 67.08 mIoU by MMSegmentation's table. Measured by us: nothing yet.
_base_ = "mmseg::fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py"

data_root = "{{$DATA:data/VOCdevkit/VOC2012}}"
model = dict(
    pretrained=None,
    backbone=dict(type="ResNet", init_cfg=dict(type="Pretrained", checkpoint="{{$WEIGHTS:}}")),
)
train_dataloader = dict(
    dataset=dict(
        datasets=[
            dict(
                type="PascalVOCDataset",
                data_root=data_root,
                data_prefix=dict(img_path="JPEGImages", seg_map_path=labels),
                ann_file=f"ImageSets/Segmentation/{split}.txt",
                pipeline={{_base_.train_pipeline}},
            )
            for labels, split in (("SegmentationClass", "train"), ("SegmentationClassAug", "aug"))
        ]
    )
)
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
auto_scale_lr = dict(enable=False, base_batch_size=16)
