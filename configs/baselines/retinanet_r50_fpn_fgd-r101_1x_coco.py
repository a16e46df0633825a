# RetinaNet R-50, 1x (36.5 box AP alone), learns from RetinaNet R-101 (38.9) by FGD: focal and global distillation.
# The authors' weights for RetinaNet, their gradient clipping and their inheriting strategy: neck and head start
# from the teacher's. Without `init_student` and `optim_wrapper` it trains as the other configs do.
# Run:    python tools/train.py configs/baselines/retinanet_r50_fpn_fgd-r101_1x_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/baselines/retinanet_r50_fpn_fgd-r101_1x_coco.py 8
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/pictures.py']

model = dict(
    _delete_=True,
    type='mmkd_graph.GraphDistiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r101_fpn_2x_coco/'
        'retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth',
    ),
    init_student='teacher',
    losses=dict(fgd=dict(type='mmkd_graph.FGDLoss')),
)

optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
