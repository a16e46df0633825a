# RetinaNet R-50, 1x (36.5 box AP alone), learns from RetinaNet R-101 (38.9) by CrossKD.
# Run:    python tools/train.py configs/heads/retinanet_r50_fpn_crosskd-r101_1x_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/heads/retinanet_r50_fpn_crosskd-r101_1x_coco.py 8
_base_ = '../crg/retinanet_r50_fpn_crg-r101_1x_coco.py'

model = dict(losses=dict(_delete_=True, crosskd=dict(type='mmkd_graph.CrossKDLoss')))
