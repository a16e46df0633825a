# RetinaNet on EfficientNet-Lite0 with ImageNet weights, 64 pyramid channels, strides 8 to 64. The backbone's batch
# norms are frozen, and its stages up to a stride of 4, as mmdet's ResNets have it; neck and head have group norm.
# Anchors from 16 pixels on, of three shapes: 95 % of the training boxes of voc07_5c at 256 pixels overlap one by half
# (67 % with squares alone, 80 % from 32 pixels on).
_base_ = './retinanet_r18-w8_fpn-64_gn.py'

model = dict(
    data_preprocessor=dict(
        # What the weights were trained with; ImageNet's usual numbers would be 2.2 times too large for the batch norms.
        mean=[127.0, 127.0, 127.0],
        std=[128.0, 128.0, 128.0],
        pad_size_divisor=256,
    ),
    backbone=dict(
        _delete_=True,
        type='mmkd_graph.EfficientNetLite',
        arch='lite0',
        out_indices=(3, 4, 5),
        frozen_stages=3,
        norm_cfg=dict(type='BN', eps=1e-3, requires_grad=False),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='data/weights/efficientnet_lite0.pth'),
    ),
    neck=dict(in_channels=[40, 112, 320]),
    bbox_head=dict(num_classes=5, anchor_generator=dict(ratios=[0.5, 1.0, 2.0])),
    # Anchors on a difficult box are neither object nor background.
    train_cfg=dict(assigner=dict(ignore_iof_thr=0.5)),
)
