# What MHGD compares: each of its defaults alone taken back, and all of them, at the ratio that shapes.py chooses.
_base_ = './shapes.py'
changes = dict(
    mhgd=dict(),
    not_scaled=dict(scaled=False),
    levels_alike=dict(level_weights='equal'),
    instances=dict(samples='instances'),
    as_published=dict(samples='instances', scaled=False, level_weights='equal'),
)
weight = dict(type='mmkd_graph.GradientRatio', ratio=2.0, iterations=150)
methods = {name: dict(type='mmkd_graph.MHGDLoss', loss_weight=weight, **change) for name, change in changes.items()}
methods['_delete_'] = True
tune = None
del changes, weight
