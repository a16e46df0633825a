# The counterpart of retinanet_student-pretrain_shapes.py for the student of three of the six kinds of shapes.
# Run: python tools/train.py configs/demo/retinanet_student-half-pretrain_shapes.py
_base_ = './retinanet_student-half_shapes.py'

max_iters = 1400
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_iters)]
