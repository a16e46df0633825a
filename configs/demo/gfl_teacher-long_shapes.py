# A GFL as large as the demonstration's teacher, trained for as long as retinanet_teacher-long_shapes.py.
# Run: python tools/train.py configs/demo/gfl_teacher-long_shapes.py
_base_ = './gfl_student_shapes.py'

model = dict(
    backbone=dict(base_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256]),
    bbox_head=dict(stacked_convs=2),
)

max_iters = 2500
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_iters)]
