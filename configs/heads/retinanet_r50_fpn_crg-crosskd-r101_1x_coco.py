# RetinaNet R-50, 1x (36.5 box AP alone), learns from RetinaNet R-101 (38.9) by CrossKD and, between the
# pyramids, CRG.
# Run:    python tools/train.py configs/heads/retinanet_r50_fpn_crg-crosskd-r101_1x_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/heads/retinanet_r50_fpn_crg-crosskd-r101_1x_coco.py 8
_base_ = './retinanet_r50_fpn_crosskd-r101_1x_coco.py'

model = dict(losses=dict(crg=dict(type='mmkd_graph.CRGLoss')))
