# ATSS R-50, 1x (39.4 box AP alone), learns from ATSS R-101 (41.5) by CrossKD and, between the
# pyramids, CRG.
# Run:    python tools/train.py configs/heads/atss_r50_fpn_crg-crosskd-r101_1x_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/heads/atss_r50_fpn_crg-crosskd-r101_1x_coco.py 8
_base_ = './atss_r50_fpn_crosskd-r101_1x_coco.py'

model = dict(losses=dict(crg=dict(type='mmkd_graph.CRGLoss')))
