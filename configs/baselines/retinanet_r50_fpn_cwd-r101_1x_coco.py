# RetinaNet R-50, 1x (36.5 box AP alone), learns from RetinaNet R-101 (38.9) by CWD: channel-wise distributions.
# Weight 5, temperature 1, P3 to P6: the settings of the detection code that the authors name, there for an
# X101-64x4d teacher.
# Run:    python tools/train.py configs/baselines/retinanet_r50_fpn_cwd-r101_1x_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/baselines/retinanet_r50_fpn_cwd-r101_1x_coco.py 8
_base_ = '../crg/retinanet_r50_fpn_crg-r101_1x_coco.py'

model = dict(strides=(8, 16, 32, 64), losses=dict(_delete_=True, cwd=dict(type='mmkd_graph.CWDLoss')))
