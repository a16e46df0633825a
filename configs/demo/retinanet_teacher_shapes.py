# The demonstration's teacher.
# Run: python tools/train.py configs/demo/retinanet_teacher_shapes.py
# It ends with work_dirs/retinanet_teacher_shapes/iter_1000.pth, where the distilled student looks for it.
_base_ = [
    '../_base_/datasets/shapes_coco.py',
    '../_base_/models/retinanet_shapes.py',
    '../_base_/schedules/shapes.py',
]

model = dict(
    backbone=dict(base_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256]),
    bbox_head=dict(stacked_convs=2),
)

# Longer than the students' schedule: a teacher has to be good, and it is trained once.
max_iters = 1000
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_iters)]
