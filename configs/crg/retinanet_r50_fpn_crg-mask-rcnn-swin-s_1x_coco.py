# RetinaNet R-50, 1x (36.5 box AP alone), learns from Mask R-CNN Swin-S (48.2): another backbone kind and
# another head. Their pyramids (P3-P7 and P2-P6) meet at strides 8, 16, 32 and 64.
# Run:    python tools/train.py configs/crg/retinanet_r50_fpn_crg-mask-rcnn-swin-s_1x_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/crg/retinanet_r50_fpn_crg-mask-rcnn-swin-s_1x_coco.py 8
_base_ = './retinanet_r50_fpn_crg-r101_1x_coco.py'

model = dict(
    teacher=dict(
        config='mmdet::swin/mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/swin/mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco/'
        'mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco_20210903_104808-b92c91f1.pth',
    ),
)
