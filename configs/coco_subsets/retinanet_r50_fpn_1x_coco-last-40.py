# RetinaNet R-50 alone on the last 40 classes of COCO: a plain student of configs/refilled.
# Run:    python tools/train.py configs/coco_subsets/retinanet_r50_fpn_1x_coco-last-40.py
# 8 GPUs: bash tools/dist_train.sh configs/coco_subsets/retinanet_r50_fpn_1x_coco-last-40.py 8
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/datasets/coco_subsets.py']

model = dict(bbox_head=dict(num_classes=40))
train_dataloader = dict(dataset=dict(metainfo=dict(classes={{_base_.last_40}})))
val_dataloader = dict(dataset=dict(metainfo=dict(classes={{_base_.last_40}})))
test_dataloader = dict(dataset=dict(metainfo=dict(classes={{_base_.last_40}})))
