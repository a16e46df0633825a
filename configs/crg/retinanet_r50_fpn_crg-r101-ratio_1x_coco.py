# RetinaNet R-50, 1x (36.5 box AP alone), learns from RetinaNet R-101 (38.9) through channel graphs. The weight of the
# loss is measured: it pulls half as hard as the task losses. It begins after the warm-up of the learning rate (500
# iterations, less than 0.1 epochs), falls along a cosine, and is off in the last epoch (there the teacher rests).
# Run:    python tools/train.py configs/crg/retinanet_r50_fpn_crg-r101-ratio_1x_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/crg/retinanet_r50_fpn_crg-r101-ratio_1x_coco.py 8
_base_ = './retinanet_r50_fpn_crg-r101_1x_coco.py'

model = dict(losses=dict(crg=dict(loss_weight=dict(type='mmkd_graph.GradientRatio', ratio=0.5, iterations=50))))

custom_hooks = [
    dict(type='mmkd_graph.GraphPicturesHook'),
    dict(type='mmkd_graph.LossScheduleHook', begin=0.1, policy='cosine', end=11, end_ratio=0.2, stop=11),
]
