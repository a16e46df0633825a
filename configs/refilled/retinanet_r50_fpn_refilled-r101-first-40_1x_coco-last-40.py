# RetinaNet R-50 on the last 40 classes of COCO shares no class with its teacher, RetinaNet R-101 on
# the first 40: relationship matching needs none.
# Train the teacher first: configs/coco_subsets/retinanet_r101_fpn_1x_coco-first-40.py
# Run:    python tools/train.py configs/refilled/retinanet_r50_fpn_refilled-r101-first-40_1x_coco-last-40.py
# 8 GPUs: bash tools/dist_train.sh configs/refilled/retinanet_r50_fpn_refilled-r101-first-40_1x_coco-last-40.py 8
_base_ = ['../coco_subsets/retinanet_r50_fpn_1x_coco-last-40.py', '../_base_/pictures.py']

model = dict(
    _delete_=True,
    type='mmkd_graph.GraphDistiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmkd_graph::coco_subsets/retinanet_r101_fpn_1x_coco-first-40.py',
        checkpoint='work_dirs/retinanet_r101_fpn_1x_coco-first-40/epoch_12.pth',
    ),
    losses=dict(refilled=dict(type='mmkd_graph.REFILLEDLoss', num_classes=40)),
)
