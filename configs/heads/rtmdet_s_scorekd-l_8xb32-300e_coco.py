# RTMDet-s (44.5 box AP alone) learns from RTMDet-l (51.3) by its class scores.
# Run:    python tools/train.py configs/heads/rtmdet_s_scorekd-l_8xb32-300e_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/heads/rtmdet_s_scorekd-l_8xb32-300e_coco.py 8
_base_ = 'mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py'

model = dict(
    _delete_=True,
    type='mmkd_graph.GraphDistiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet_l_8xb32-300e_coco/'
        'rtmdet_l_8xb32-300e_coco_20220719_112030-5a0be7c4.pth',
    ),
    losses=dict(score=dict(type='mmkd_graph.ScoreKDLoss')),
)
