# ATSS R-50, 1x (39.4 box AP alone), learns from ATSS R-101 (41.5) by CrossKD.
# Run:    python tools/train.py configs/heads/atss_r50_fpn_crosskd-r101_1x_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/heads/atss_r50_fpn_crosskd-r101_1x_coco.py 8
_base_ = ['mmdet::atss/atss_r50_fpn_1x_coco.py', '../_base_/pictures.py']

model = dict(
    _delete_=True,
    type='mmkd_graph.GraphDistiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::atss/atss_r101_fpn_1x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/atss/atss_r101_fpn_1x_coco/'
        'atss_r101_fpn_1x_20200825-dfcadd6f.pth',
    ),
    losses=dict(crosskd=dict(type='mmkd_graph.CrossKDLoss')),
)
