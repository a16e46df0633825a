# RetinaNet R-50, 1x (36.5 box AP alone), learns from RetinaNet PVTv2-B2 (44.6) by the low frequencies of their
# features.
# Run:    python tools/train.py configs/lfcc/retinanet_r50_fpn_lfcc-pvtv2-b2_1x_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/lfcc/retinanet_r50_fpn_lfcc-pvtv2-b2_1x_coco.py 8
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/pictures.py']

model = dict(
    _delete_=True,
    type='mmkd_graph.GraphDistiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::pvt/retinanet_pvtv2-b2_fpn_1x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/pvt/retinanet_pvtv2-b2_fpn_1x_coco/'
        'retinanet_pvtv2-b2_fpn_1x_coco_20210901_174843-529f0b9a.pth',
    ),
    losses=dict(lfcc=dict(type='mmkd_graph.LFCCLoss')),
)
