# A GFL as small as the demonstration's student, trained alone.
# Run: python tools/train.py configs/demo/gfl_student_shapes.py
_base_ = [
    '../_base_/datasets/shapes_coco.py',
    '../_base_/models/gfl_shapes.py',
    '../_base_/schedules/shapes.py',
]

model = dict(backbone=dict(base_channels=8), neck=dict(in_channels=[8, 16, 32, 64]))
