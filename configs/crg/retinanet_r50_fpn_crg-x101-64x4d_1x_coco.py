# RetinaNet R-50, 1x (36.5 box AP alone), learns from RetinaNet X-101 64x4d (41.0) through channel graphs.
# Run:    python tools/train.py configs/crg/retinanet_r50_fpn_crg-x101-64x4d_1x_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/crg/retinanet_r50_fpn_crg-x101-64x4d_1x_coco.py 8
_base_ = './retinanet_r50_fpn_crg-r101_1x_coco.py'

model = dict(
    teacher=dict(
        config='mmdet::retinanet/retinanet_x101-64x4d_fpn_1x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_x101_64x4d_fpn_1x_coco/'
        'retinanet_x101_64x4d_fpn_1x_coco_20200130-366f5af1.pth',
    ),
)
