# The demonstration's teacher.
# Run: python tools/train.py configs/demo/retinanet_teacher_shapes.py --work-dir work_dirs/demo/teacher
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
