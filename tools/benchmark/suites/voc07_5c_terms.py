# The terms of CRG, alone and together, on the same five classes of PASCAL VOC 2007, all at a ratio of 0.5.
_base_ = './voc07_5c.py'
half = dict(type='mmkd_graph.GradientRatio', ratio=0.5)
methods = dict(
    _delete_=True,
    vertices=dict(type='mmkd_graph.CRGLoss', edge_weight=0, spectral_weight=0, loss_weight=half),
    edges=dict(type='mmkd_graph.CRGLoss', vertex_weight=0, spectral_weight=0, loss_weight=half),
    vertices_edges=dict(type='mmkd_graph.CRGLoss', spectral_weight=0, loss_weight=half),
    edges_spectrum=dict(type='mmkd_graph.CRGLoss', vertex_weight=0, loss_weight=half),
    crg=dict(type='mmkd_graph.CRGLoss', loss_weight=half),
)
tune = None
seeds = [0, 1, 5]
del half
