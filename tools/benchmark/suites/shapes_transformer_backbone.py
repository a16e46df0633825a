# The same with the losses between the stages of the backbones, where the two differ most: no common neck comes before.
_base_ = './shapes_transformer.py'
distiller = dict(taps='backbone')
# CRG is taken apart, too: its features (vertices), and its graphs (edges and spectrum).
weight = dict(type='mmkd_graph.GradientRatio', ratio=1.0)
methods = dict(
    vertices=dict(type='mmkd_graph.CRGLoss', edge_weight=0, spectral_weight=0, loss_weight=weight),
    graphs=dict(type='mmkd_graph.CRGLoss', vertex_weight=0, loss_weight=weight),
)
del weight
