# RetinaNet R-50 on the 20 classes of VOC 2007+2012 learns from RetinaNet R-101 on the 80 of COCO (38.9 box AP)
# through relationship matching; no class is mapped to another, and there is no teacher to train.
# Run:    python tools/train.py configs/refilled/retinanet_r50_fpn_refilled-coco-r101_1x_voc0712.py
# 8 GPUs: bash tools/dist_train.sh configs/refilled/retinanet_r50_fpn_refilled-coco-r101_1x_voc0712.py 8
_base_ = ['mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py', '../_base_/pictures.py']

model = dict(
    _delete_=True,
    type='mmkd_graph.GraphDistiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r101_fpn_2x_coco/'
        'retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth',
    ),
    losses=dict(refilled=dict(type='mmkd_graph.REFILLEDLoss', num_classes=20)),
)
