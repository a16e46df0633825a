# The demonstration's student, trained alone: the number a distilled student is compared with.
# Run: python tools/train.py configs/demo/retinanet_student_shapes.py
_base_ = [
    '../_base_/datasets/shapes_coco.py',
    '../_base_/models/retinanet_shapes.py',
    '../_base_/schedules/shapes.py',
]

model = dict(
    backbone=dict(base_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64]),
    bbox_head=dict(stacked_convs=1),
)
