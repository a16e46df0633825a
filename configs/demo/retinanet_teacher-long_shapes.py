# The demonstration's teacher, trained until it is far ahead of a student: the one that methods are compared with.
# Run: python tools/train.py configs/demo/retinanet_teacher-long_shapes.py
_base_ = './retinanet_teacher_shapes.py'

max_iters = 2500
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=False, begin=50, end=max_iters),
]
