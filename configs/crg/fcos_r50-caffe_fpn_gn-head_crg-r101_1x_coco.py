# FCOS R-50, 1x (36.6 box AP alone), learns from FCOS R-101 (40.8) through channel graphs.
# Run:    python tools/train.py configs/crg/fcos_r50-caffe_fpn_gn-head_crg-r101_1x_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/crg/fcos_r50-caffe_fpn_gn-head_crg-r101_1x_coco.py 8
_base_ = ['mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', '../_base_/pictures.py']

model = dict(
    _delete_=True,
    type='mmkd_graph.GraphDistiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::fcos/fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/fcos/fcos_r101_caffe_fpn_gn-head_mstrain_640-800_2x_coco/'
        'fcos_r101_caffe_fpn_gn-head_mstrain_640-800_2x_coco-511424d6.pth',
    ),
    losses=dict(crg=dict(type='mmkd_graph.CRGLoss')),
)
