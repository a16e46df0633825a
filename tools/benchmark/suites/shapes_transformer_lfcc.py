# What LFCC contrasts, and whether it learns the teacher's projection, with a teacher of another architecture.
_base_ = './shapes_transformer.py'
changes = dict(
    cells=dict(samples='cells'),
    cells_learned=dict(samples='cells', teacher_projection='learned'),
    instances=dict(samples='instances'),
    instances_learned=dict(samples='instances', teacher_projection='learned'),
)
weight = dict(type='mmkd_graph.GradientRatio', ratio=1.0)
methods = {
    name: dict(type='mmkd_graph.LowFrequencyContrastiveLoss', loss_weight=weight, **change)
    for name, change in changes.items()
}
methods['_delete_'] = True
tune = dict(values=[0.5, 2.0])
del changes, weight
