# Losses of heads on the same five classes of PASCAL VOC 2007. The student's towers have one convolution.
_base_ = './voc07_5c.py'
methods = dict(
    _delete_=True,
    score=dict(type='mmkd_graph.ScoreKDLoss'),
    dist=dict(type='mmkd_graph.DISTLoss'),
    crosskd=dict(type='mmkd_graph.CrossKDLoss', stage=1),
)
for loss in (methods['score'], methods['dist'], methods['crosskd']):
    loss['loss_weight'] = dict(type='mmkd_graph.GradientRatio', ratio=0.5)
del loss
