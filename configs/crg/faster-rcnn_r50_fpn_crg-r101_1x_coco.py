# Faster R-CNN R-50, 1x (37.4 box AP alone), learns from Faster R-CNN R-101 (39.8) through channel graphs.
# Run:    python tools/train.py configs/crg/faster-rcnn_r50_fpn_crg-r101_1x_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/crg/faster-rcnn_r50_fpn_crg-r101_1x_coco.py 8
_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', '../_base_/pictures.py']

model = dict(
    _delete_=True,
    type='mmkd_graph.GraphDistiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/faster_rcnn_r101_fpn_2x_coco/'
        'faster_rcnn_r101_fpn_2x_coco_bbox_mAP-0.398_20200504_210455-1d2dac9c.pth',
    ),
    losses=dict(crg=dict(type='mmkd_graph.CRGLoss')),
)
