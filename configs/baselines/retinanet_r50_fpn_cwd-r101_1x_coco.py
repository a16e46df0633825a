# RetinaNet R-50, 1x (36.5 box AP alone), learns from RetinaNet R-101 (38.9) by CWD: channel-wise distributions.
# Weight 5, temperature 1, P3 to P6: the settings of the detection code that the authors name, there for an
# X101-64x4d teacher.
# Run:    python tools/train.py configs/baselines/retinanet_r50_fpn_cwd-r101_1x_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/baselines/retinanet_r50_fpn_cwd-r101_1x_coco.py 8
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/pictures.py']

model = dict(
    _delete_=True,
    type='mmkd_graph.GraphDistiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r101_fpn_2x_coco/'
        'retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth',
    ),
    strides=(8, 16, 32, 64),
    losses=dict(cwd=dict(type='mmkd_graph.CWDLoss')),
)
