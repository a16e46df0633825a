# The student trained for longer, whose backbone the students of a comparison start from: see
# retinanet_student-pretrain_shapes.py.
# Run: python tools/train.py configs/demo/gfl_student-pretrain_shapes.py
_base_ = './gfl_student_shapes.py'

max_iters = 1400
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_iters)]
