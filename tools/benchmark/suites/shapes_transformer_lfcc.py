# What LFCC contrasts, at which scales and how sharply, and whether it learns the teacher's projection, with a teacher
# of another architecture.
_base_ = './shapes_transformer.py'
changes = dict(
    cells=dict(samples='cells'),
    cells_learned=dict(samples='cells', teacher_projection='learned'),
    instances=dict(samples='instances'),
    instances_learned=dict(samples='instances', teacher_projection='learned'),
    cold=dict(temperature=0.03),
    warm=dict(temperature=0.2),
    hot=dict(temperature=0.5),
    more_cells=dict(max_cells=2048),
    scale_1=dict(scales=(1,)),
    warm_scales_1_2=dict(scales=(1, 2), temperature=0.2, max_cells=1024),
)
weight = dict(type='mmkd_graph.GradientRatio', ratio=1.0)
methods = {name: dict(type='mmkd_graph.LFCCLoss', loss_weight=weight, **change) for name, change in changes.items()}
methods['_delete_'] = True
tune = dict(values=[0.5, 2.0])
del changes, weight
