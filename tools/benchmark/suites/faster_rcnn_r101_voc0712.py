# Faster R-CNN R-50 <- R-101 on VOC 2007+2012, 4 epochs of 3 repeats, a part of docs/coco_kit.md. No such teacher is
# public: it is trained. FGD, MGD and PKD have the weights that their authors have for Faster R-CNN.
teacher = 'configs/pascal_voc/faster-rcnn_r101_fpn_1x_voc0712.py'
student = 'mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py'
methods = dict(
    crg='configs/crg/faster-rcnn_r50_fpn_crg-r101_1x_voc0712.py',
    mhgd=dict(type='mmkd_graph.MHGDLoss', loss_weight=dict(type='mmkd_graph.GradientRatio', ratio=0.5, iterations=500)),
    lfcc=dict(type='mmkd_graph.LFCCLoss'),
    refilled=dict(type='mmkd_graph.REFILLEDLoss', num_classes=20),
    fitnet=dict(losses=dict(fitnet=dict(type='mmkd_graph.FitNetLoss')), adapter='always'),
    cwd=dict(type='mmkd_graph.CWDLoss'),
    pkd=dict(type='mmkd_graph.PKDLoss', pearson_weight=6.0),
    fgd=dict(
        type='mmkd_graph.FGDLoss',
        foreground_weight=5e-5,
        background_weight=2.5e-5,
        attention_weight=5e-5,
        relation_weight=5e-7,
    ),
    mgd=dict(type='mmkd_graph.MGDLoss', generation_weight=5e-7, mask_ratio=0.45),
)
seeds = [0]
reported = dict(student=[dict(ap=79.5, setting='1x', source='mmdet, configs/pascal_voc')])
