# RetinaNet R-50, 1x (36.5 box AP alone), learns from RetinaNet R-101 (38.9) by FGD: focal and global distillation.
# The authors' weights for RetinaNet, their gradient clipping and their inheriting strategy: neck and head start
# from the teacher's. Without `init_student` and `optim_wrapper` it trains as the other configs do.
# Run:    python tools/train.py configs/baselines/retinanet_r50_fpn_fgd-r101_1x_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/baselines/retinanet_r50_fpn_fgd-r101_1x_coco.py 8
_base_ = '../crg/retinanet_r50_fpn_crg-r101_1x_coco.py'

model = dict(init_student='teacher', losses=dict(_delete_=True, fgd=dict(type='mmkd_graph.FGDLoss')))

optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
