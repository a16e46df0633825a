# The student alone: RetinaNet on EfficientNet-Lite0 with ImageNet weights, one convolution in the head, five classes of
# PASCAL VOC 2007, 800 iterations of batch 8.
# Images: python tools/dataset/select_voc_subset.py data/VOCdevkit/VOC2007 data/voc07_5c
# Weights, data/weights/efficientnet_lite0.pth: tools/convert_efficientnet_lite.py, whose --help has the commands.
# Run: python tools/train.py configs/voc07_5c/retinanet_lite0_fpn-64_voc07-5c.py
_base_ = [
    '../_base_/models/retinanet_lite0_fpn-64_gn.py',
    '../_base_/datasets/voc07_5c.py',
    '../_base_/schedules/adamw_pretrained_800.py',
]
