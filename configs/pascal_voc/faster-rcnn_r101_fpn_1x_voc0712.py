# Teacher for the Faster R-CNN student on VOC under configs/crg: no R-101 detector trained on VOC is public.
# Leaves work_dirs/faster-rcnn_r101_fpn_1x_voc0712/epoch_4.pth (4 epochs of 3 repeats).
# Run:    python tools/train.py configs/pascal_voc/faster-rcnn_r101_fpn_1x_voc0712.py
# 8 GPUs: bash tools/dist_train.sh configs/pascal_voc/faster-rcnn_r101_fpn_1x_voc0712.py 8
_base_ = 'mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py'

model = dict(backbone=dict(depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101')))
