# FCN on ResNet-50 of output stride 8, Cityscapes' fine annotations: MMSegmentation's own 40k schedule.
#
#   python -m evaluation.convert --to mmseg CHECKPOINT backbone_mmseg.pth
#   torchrun --nproc_per_node=4 evaluation/mmseg/train.py evaluation/mmseg/fcn_r50-d8_cityscapes.py --launcher pytorch \
#       --weights backbone_mmseg.pth --data data/cityscapes
#
# Source of the numbers: MMSegmentation 1.2.2, in the installed package: 40,000 iterations, 4 GPUs x 2 images, rate 0.01 falling
# as a polynomial, crops of 512 x 1024. Differs: the trunk has torchvision's 7 x 7 stem (ResNet), as ours do, where that file has
# three 3 x 3 convolutions (ResNetV1c), and no weights of MMSegmentation's. It is no protocol of the papers here.
# Expected: with supervised ImageNet weights of ResNetV1c, 72.25 mIoU by MMSegmentation's table. Measured by us: nothing yet.
_base_ = "mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py"

data_root = "{{$DATA:data/cityscapes}}"
model = dict(
    pretrained=None,
    backbone=dict(type="ResNet", init_cfg=dict(type="Pretrained", checkpoint="{{$WEIGHTS:}}")),
)
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
auto_scale_lr = dict(enable=False, base_batch_size=8)
