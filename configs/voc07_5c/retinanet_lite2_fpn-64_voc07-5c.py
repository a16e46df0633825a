# The teacher: the student's detector on EfficientNet-Lite2, with a deeper head, more iterations and, against
# overfitting, images in other sizes, crops and colours.
# Images: as the student's. Weights, data/weights/efficientnet_lite2.pth: tools/convert_efficientnet_lite.py, whose
# --help has the commands for Lite0; those for Lite2 have a 2 in place of the 0.
# Leaves work_dirs/retinanet_lite2_fpn-64_voc07-5c/iter_2000.pth
# Run: python tools/train.py configs/voc07_5c/retinanet_lite2_fpn-64_voc07-5c.py
_base_ = './retinanet_lite0_fpn-64_voc07-5c.py'

model = dict(
    backbone=dict(arch='lite2', init_cfg=dict(checkpoint='data/weights/efficientnet_lite2.pth')),
    neck=dict(in_channels=[48, 120, 352]),
    bbox_head=dict(stacked_convs=2),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale={{_base_.image_scale}}, ratio_range=(0.6, 1.6), keep_ratio=True),
    dict(type='RandomCrop', crop_size={{_base_.image_scale}}),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

max_iters = 2000
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_iters)]
