# RetinaNet R-50 on VOC 2007+2012, learns from RetinaNet R-101 through channel graphs.
# Train the teacher first: configs/pascal_voc/retinanet_r101_fpn_1x_voc0712.py
# Run:    python tools/train.py configs/crg/retinanet_r50_fpn_crg-r101_1x_voc0712.py
# 8 GPUs: bash tools/dist_train.sh configs/crg/retinanet_r50_fpn_crg-r101_1x_voc0712.py 8
_base_ = ['mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py', '../_base_/pictures.py']

model = dict(
    _delete_=True,
    type='mmkd_graph.GraphDistiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmkd_graph::pascal_voc/retinanet_r101_fpn_1x_voc0712.py',
        checkpoint='work_dirs/retinanet_r101_fpn_1x_voc0712/epoch_4.pth',
    ),
    losses=dict(crg=dict(type='mmkd_graph.CRGLoss')),
)
