# GFL R-50 <- R-101 on COCO, 1x, a part of docs/coco_kit.md. What is published for RetinaNet alone is taken from there,
# but neither gradient clipping nor a student that starts from the teacher's head: one recipe for all.
teacher = 'mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py'
weights = (
    'https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r101_fpn_mstrain_2x_coco/'
    'gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth'
)
student = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'
methods = dict(
    crg='configs/crg/gfl_r50_fpn_crg-r101_1x_coco.py',
    mhgd=dict(type='mmkd_graph.MHGDLoss', loss_weight=dict(type='mmkd_graph.GradientRatio', ratio=0.5, iterations=500)),
    lfcc=dict(type='mmkd_graph.LFCCLoss'),
    refilled=dict(type='mmkd_graph.REFILLEDLoss', num_classes=80),
    fitnet=dict(losses=dict(fitnet=dict(type='mmkd_graph.FitNetLoss')), adapter='always'),
    cwd=dict(losses=dict(cwd=dict(type='mmkd_graph.CWDLoss')), strides=(8, 16, 32, 64)),
    pkd=dict(losses=dict(pkd=dict(type='mmkd_graph.PKDLoss')), strides=(8, 16, 32, 64)),
    fgd=dict(type='mmkd_graph.FGDLoss'),
    mgd=dict(type='mmkd_graph.MGDLoss'),
    scorekd=dict(type='mmkd_graph.ScoreKDLoss'),
    dist=dict(type='mmkd_graph.DISTLoss'),
    ld='configs/heads/gfl_r50_fpn_ld-r101_1x_coco.py',
    crosskd='configs/heads/gfl_r50_fpn_crosskd-r101_1x_coco.py',
)
seeds = [0]
reported = dict(
    teacher=[dict(ap=44.7, setting='2x', source='model zoo of mmdet')],
    student=[dict(ap=40.2, setting='1x', source='model zoo of mmdet')],
    cwd=[dict(ap=41.9, setting='1x, on class scores', source='mmrazor, configs/distill/mmdet/cwd')],
    fgd=[dict(ap=43.5, setting='1x, 40.2 alone, teacher not named', source='github.com/yzd-v/FGD')],
    ld=[
        dict(ap=41.0, setting='1x', source='model zoo of mmdet'),
        dict(ap=41.1, setting='1x, 40.1 alone', source='github.com/HikariTJU/LD'),
    ],
    crosskd=[dict(ap=43.7, setting='1x, 40.2 alone', source='arXiv 2306.11369')],
)
