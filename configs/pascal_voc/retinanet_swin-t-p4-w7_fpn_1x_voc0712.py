# Teacher for the student under configs/lfcc: no Swin detector trained on VOC is public. Optimizer and warm-up as in
# mmdet's Mask R-CNN Swin-T, 1x.
# Leaves work_dirs/retinanet_swin-t-p4-w7_fpn_1x_voc0712/epoch_4.pth (4 epochs of 3 repeats).
# Run:    python tools/train.py configs/pascal_voc/retinanet_swin-t-p4-w7_fpn_1x_voc0712.py
# 8 GPUs: bash tools/dist_train.sh configs/pascal_voc/retinanet_swin-t-p4-w7_fpn_1x_voc0712.py 8
_base_ = 'mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        embed_dims=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        drop_path_rate=0.2,
        out_indices=(1, 2, 3),
        convert_weights=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.0/'
            'swin_tiny_patch4_window7_224.pth',
        ),
    ),
    neck=dict(in_channels=[192, 384, 768], start_level=0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=4, milestones=[3], gamma=0.1),
]
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'absolute_pos_embed': dict(decay_mult=0.0),
            'relative_position_bias_table': dict(decay_mult=0.0),
            'norm': dict(decay_mult=0.0),
        }
    ),
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0001, betas=(0.9, 0.999), weight_decay=0.05),
)
