# The teacher: the student's detector on a ResNet-18 of four times its width, with a deeper head and more iterations.
# Leaves work_dirs/retinanet_r18-w32_fpn-64_bccd/iter_1500.pth
# Run: python tools/train.py configs/bccd/retinanet_r18-w32_fpn-64_bccd.py
_base_ = './retinanet_r18-w8_fpn-64_bccd.py'

model = dict(
    backbone=dict(base_channels=32),
    neck=dict(in_channels=[64, 128, 256]),
    bbox_head=dict(stacked_convs=2),
)

max_iters = 1500
train_cfg = dict(max_iters=max_iters)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_iters)]
