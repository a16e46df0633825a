# RetinaNet R-50 <- R-101 on COCO, 1x, a part of docs/coco_kit.md. FGD and MGD by their authors' recipe.
teacher = 'mmdet::retinanet/retinanet_r101_fpn_2x_coco.py'
weights = (
    'https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r101_fpn_2x_coco/'
    'retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth'
)
student = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
methods = dict(
    crg='configs/crg/retinanet_r50_fpn_crg-r101_1x_coco.py',
    mhgd='configs/mhgd/retinanet_r50_fpn_mhgd-r101_1x_coco.py',
    lfcc=dict(type='mmkd_graph.LFCCLoss'),
    refilled='configs/refilled/retinanet_r50_fpn_refilled-r101_1x_coco.py',
    fitnet='configs/baselines/retinanet_r50_fpn_fitnet-r101_1x_coco.py',
    cwd='configs/baselines/retinanet_r50_fpn_cwd-r101_1x_coco.py',
    pkd='configs/baselines/retinanet_r50_fpn_pkd-r101_1x_coco.py',
    fgd='configs/baselines/retinanet_r50_fpn_fgd-r101_1x_coco.py',
    mgd='configs/baselines/retinanet_r50_fpn_mgd-r101_1x_coco.py',
    scorekd=dict(type='mmkd_graph.ScoreKDLoss'),
    dist=dict(type='mmkd_graph.DISTLoss'),
    crosskd='configs/heads/retinanet_r50_fpn_crosskd-r101_1x_coco.py',
)
seeds = [0]
reported = dict(
    teacher=[dict(ap=38.9, setting='2x', source='model zoo of mmdet')],
    student=[dict(ap=36.5, setting='1x', source='model zoo of mmdet')],
    pkd=[dict(ap=40.8, setting='2x from X101-64x4d, 37.4 alone', source='mmrazor, configs/distill/mmdet/pkd')],
    fgd=[dict(ap=40.7, setting='2x from X101-64x4d, 37.4 alone', source='github.com/yzd-v/FGD')],
    mgd=[dict(ap=41.0, setting='2x from X101-64x4d, 37.4 alone', source='github.com/yzd-v/MGD')],
    dist=[dict(ap=39.8, setting='2x from X101-64x4d, 37.4 alone', source='arXiv 2205.10536')],
    crosskd=[dict(ap=39.8, setting='2x, with PKD, 37.4 alone', source='arXiv 2306.11369')],
)
