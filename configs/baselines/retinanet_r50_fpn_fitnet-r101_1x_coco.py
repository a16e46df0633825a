# RetinaNet R-50, 1x (36.5 box AP alone), learns from RetinaNet R-101 (38.9) by FitNet: plain imitation of the features.
# Weight 1 on all five levels, each through a 1×1 convolution, as the authors of HEAD (arXiv 2207.05345) have it
# (R-18 from R-50). There the student's head starts from the teacher's too, which this config leaves out.
# Run:    python tools/train.py configs/baselines/retinanet_r50_fpn_fitnet-r101_1x_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/baselines/retinanet_r50_fpn_fitnet-r101_1x_coco.py 8
_base_ = '../crg/retinanet_r50_fpn_crg-r101_1x_coco.py'

model = dict(adapter='always', losses=dict(_delete_=True, fitnet=dict(type='mmkd_graph.FitNetLoss')))
