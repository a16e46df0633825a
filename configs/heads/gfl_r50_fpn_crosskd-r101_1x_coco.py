# GFL R-50, 1x (40.2 box AP alone), learns from GFL R-101 (44.7) by CrossKD: its features in the teacher's head.
# Run:    python tools/train.py configs/heads/gfl_r50_fpn_crosskd-r101_1x_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/heads/gfl_r50_fpn_crosskd-r101_1x_coco.py 8
_base_ = '../crg/gfl_r50_fpn_crg-r101_1x_coco.py'

model = dict(losses=dict(_delete_=True, crosskd=dict(type='mmkd_graph.CrossKDLoss')))
