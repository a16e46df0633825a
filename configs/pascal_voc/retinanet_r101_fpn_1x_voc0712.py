# Teacher for the RetinaNet students on VOC under configs/crg and configs/mhgd: no R-101 detector trained on VOC is
# public.
# Leaves work_dirs/retinanet_r101_fpn_1x_voc0712/epoch_4.pth (4 epochs of 3 repeats).
# Run:    python tools/train.py configs/pascal_voc/retinanet_r101_fpn_1x_voc0712.py
# 8 GPUs: bash tools/dist_train.sh configs/pascal_voc/retinanet_r101_fpn_1x_voc0712.py 8
_base_ = 'mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py'

model = dict(backbone=dict(depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101')))
