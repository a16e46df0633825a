# A student trained for longer, whose backbone the students of a comparison start from, as they would from ImageNet
# weights: 700 iterations from random weights end where accuracy rises fastest, and seeds differ most.
# Run: python tools/train.py configs/demo/retinanet_student-pretrain_shapes.py
_base_ = './retinanet_student_shapes.py'

max_iters = 1400
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_iters)]
