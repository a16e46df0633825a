# The counterpart of retinanet_student-pretrain_shapes.py for the student of three of the six kinds of shapes.
# Run: python tools/train.py configs/demo/retinanet_student-half-pretrain_shapes.py
_base_ = './retinanet_student-half_shapes.py'

max_iters = 1400
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=False, begin=50, end=max_iters),
]
