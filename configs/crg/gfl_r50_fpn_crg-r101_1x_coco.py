# GFL R-50, 1x (40.2 box AP alone), learns from GFL R-101 (44.7) through channel graphs.
# Run:    python tools/train.py configs/crg/gfl_r50_fpn_crg-r101_1x_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/crg/gfl_r50_fpn_crg-r101_1x_coco.py 8
_base_ = ['mmdet::gfl/gfl_r50_fpn_1x_coco.py', '../_base_/pictures.py']

model = dict(
    _delete_=True,
    type='mmkd_graph.GraphDistiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r101_fpn_mstrain_2x_coco/'
        'gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth',
    ),
    losses=dict(crg=dict(type='mmkd_graph.CRGLoss')),
)
