# RetinaNet trained from scratch on the demonstration set; widths and depths are set by the children.
_base_ = './retinanet_r18-w8_fpn-64_gn.py'

norm_cfg = dict(type='GN', num_groups=8, requires_grad=True)
model = dict(
    backbone=dict(out_indices=(0, 1, 2, 3), norm_cfg=dict(_delete_=True, type='BN', requires_grad=True)),
    neck=dict(start_level=1, add_extra_convs='on_input', num_outs=5, norm_cfg=norm_cfg),
    bbox_head=dict(
        num_classes=6,
        norm_cfg=norm_cfg,
        # The objects measure 20 to 150 pixels; anchors go from 16 pixels on P3 to 256 on P7.
        anchor_generator=dict(strides=[8, 16, 32, 64, 128]),
    ),
    train_cfg=dict(assigner=dict(ignore_iof_thr=0.5)),
    test_cfg=dict(nms_pre=300),
)
