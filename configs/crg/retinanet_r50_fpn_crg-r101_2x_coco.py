# RetinaNet R-50, 2x (37.4 box AP alone), learns from RetinaNet R-101 (38.9) through channel graphs.
# Run:    python tools/train.py configs/crg/retinanet_r50_fpn_crg-r101_2x_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/crg/retinanet_r50_fpn_crg-r101_2x_coco.py 8
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_2x_coco.py', '../_base_/pictures.py']

model = dict(
    _delete_=True,
    type='mmkd_graph.GraphDistiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r101_fpn_2x_coco/'
        'retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth',
    ),
    losses=dict(crg=dict(type='mmkd_graph.CRGLoss')),
)
