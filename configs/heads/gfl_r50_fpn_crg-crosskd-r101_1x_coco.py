# GFL R-50, 1x (40.2 box AP alone), learns from GFL R-101 (44.7) by CrossKD and, between the
# pyramids, CRG.
# Run:    python tools/train.py configs/heads/gfl_r50_fpn_crg-crosskd-r101_1x_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/heads/gfl_r50_fpn_crg-crosskd-r101_1x_coco.py 8
_base_ = './gfl_r50_fpn_crosskd-r101_1x_coco.py'

model = dict(losses=dict(crg=dict(type='mmkd_graph.CRGLoss')))
