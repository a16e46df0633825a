# A teacher of another architecture than the demonstration's student: a pyramid vision transformer, from scratch.
# Run: python tools/train.py configs/demo/retinanet_pvt-teacher_shapes.py
_base_ = ['./retinanet_teacher_shapes.py']

model = dict(
    backbone=dict(_delete_=True, type='PyramidVisionTransformerV2', embed_dims=32, num_layers=[1, 1, 1, 1]),
    neck=dict(in_channels=[32, 64, 160, 256]),
)

# From scratch a transformer needs a smaller step and more of them than a ResNet.
max_iters = 2000
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=False, begin=100, end=max_iters),
]
