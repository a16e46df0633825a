# The demonstration's teacher, trained until it is far ahead of a student: the one that methods are compared with.
# Run: python tools/train.py configs/demo/retinanet_teacher-long_shapes.py
_base_ = './retinanet_teacher_shapes.py'

max_iters = 2500
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_iters)]
