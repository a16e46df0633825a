# RetinaNet on EfficientNet-Lite0 with ImageNet weights, 64 pyramid channels, strides 8 to 64. The backbone's batch
# norms are frozen, and its stages up to a stride of 4, as mmdet's ResNets have it; neck and head have group norm.
# Anchors from 16 pixels on, of three shapes: 95 % of the training boxes of voc07_5c at 256 pixels overlap one by half
# (67 % with squares alone, 80 % from 32 pixels on).
norm_cfg = dict(type='GN', num_groups=8)

model = dict(
    type='RetinaNet',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        # What the weights were trained with; ImageNet's usual numbers would be 2.2 times too large for the batch norms.
        mean=[127.0, 127.0, 127.0],
        std=[128.0, 128.0, 128.0],
        bgr_to_rgb=True,
        pad_size_divisor=256,
    ),
    backbone=dict(
        type='mmkd_graph.EfficientNetLite',
        arch='lite0',
        out_indices=(3, 4, 5),
        frozen_stages=3,
        norm_cfg=dict(type='BN', eps=1e-3, requires_grad=False),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='data/weights/efficientnet_lite0.pth'),
    ),
    neck=dict(
        type='FPN',
        in_channels=[40, 112, 320],
        out_channels=64,
        add_extra_convs='on_output',
        num_outs=4,
        norm_cfg=norm_cfg,
    ),
    bbox_head=dict(
        type='RetinaHead',
        num_classes=5,
        in_channels=64,
        stacked_convs=1,
        feat_channels=64,
        norm_cfg=norm_cfg,
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=2,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64],
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        reg_decoded_bbox=True,
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    ),
    # Anchors on a difficult box are neither object nor background.
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=0.5),
        sampler=dict(type='PseudoSampler'),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100
    ),
)
