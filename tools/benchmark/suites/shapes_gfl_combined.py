# The losses of heads that did best alone (shapes_gfl.py, validation split), beside CRG with its chosen ratio.
_base_ = './shapes_gfl.py'
crg = dict(type='mmkd_graph.CRGLoss', loss_weight=dict(type='mmkd_graph.GradientRatio', ratio=0.5))
ratio = dict(type='mmkd_graph.GradientRatio', ratio=0.5)
crosskd = dict(type='mmkd_graph.CrossKDLoss', stage=1, loss_weight=ratio)
dist = dict(type='mmkd_graph.DISTLoss', loss_weight=ratio)
methods = dict(
    _delete_=True,
    crg_crosskd=dict(losses=dict(crg=crg, head=crosskd)),
    crg_dist=dict(losses=dict(crg=crg, head=dist)),
)
del crg, ratio, crosskd, dist
# Of the loss of heads; that of CRG stays.
tune = dict(_delete_=True, key='losses.head.loss_weight.ratio', values=[0.125, 0.5, 2.0], seed=5)
