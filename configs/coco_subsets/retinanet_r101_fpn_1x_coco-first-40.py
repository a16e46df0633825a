# RetinaNet R-101 on the first 40 classes of COCO: the teacher of students that share none or half of its
# classes, configs/refilled.
# Leaves work_dirs/retinanet_r101_fpn_1x_coco-first-40/epoch_12.pth.
# Run:    python tools/train.py configs/coco_subsets/retinanet_r101_fpn_1x_coco-first-40.py
# 8 GPUs: bash tools/dist_train.sh configs/coco_subsets/retinanet_r101_fpn_1x_coco-first-40.py 8
_base_ = ['mmdet::retinanet/retinanet_r101_fpn_1x_coco.py', '../_base_/datasets/coco_subsets.py']

model = dict(bbox_head=dict(num_classes=40))
train_dataloader = dict(dataset=dict(metainfo=dict(classes={{_base_.first_40}})))
val_dataloader = dict(dataset=dict(metainfo=dict(classes={{_base_.first_40}})))
test_dataloader = dict(dataset=dict(metainfo=dict(classes={{_base_.first_40}})))
