# RetinaNet R-50, 1x (36.5 box AP alone), learns from RetinaNet R-101 (38.9) by PKD: correlated features.
# Weight 10, P3 to P6: the settings of the authors' RetinaNet configs (mmrazor), there for an X101-64x4d teacher.
# Run:    python tools/train.py configs/baselines/retinanet_r50_fpn_pkd-r101_1x_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/baselines/retinanet_r50_fpn_pkd-r101_1x_coco.py 8
_base_ = '../crg/retinanet_r50_fpn_crg-r101_1x_coco.py'

model = dict(strides=(8, 16, 32, 64), losses=dict(_delete_=True, pkd=dict(type='mmkd_graph.PKDLoss')))
