# Settings of CRG on the same five classes of PASCAL VOC 2007, at ratios that are not tuned.
_base_ = './voc07_5c.py'
half = dict(type='mmkd_graph.GradientRatio', ratio=0.5)
methods = dict(
    _delete_=True,
    edges_levels_equal=dict(
        type='mmkd_graph.CRGLoss', vertex_weight=0, spectral_weight=0, level_weights='equal', loss_weight=half
    ),
    vertices_plain=dict(
        type='mmkd_graph.CRGLoss',
        edge_weight=0,
        spectral_weight=0,
        level_weights='equal',
        temperature=None,
        loss_weight=half,
    ),
    vertices_and_graphs=dict(
        losses=dict(
            vertices=dict(
                type='mmkd_graph.CRGLoss',
                edge_weight=0,
                spectral_weight=0,
                loss_weight=dict(type='mmkd_graph.GradientRatio', ratio=2.0),
            ),
            graphs=dict(type='mmkd_graph.CRGLoss', vertex_weight=0, loss_weight=half),
        )
    ),
)
tune = None
del half
