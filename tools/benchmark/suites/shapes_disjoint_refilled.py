# What REFILLED matches, with a teacher of other classes, all at the ratio that shapes_disjoint.py chooses.
_base_ = './shapes_disjoint.py'
changes = dict(
    cells=dict(),
    not_centered=dict(centered=False),
    levels_alike=dict(level_weights='equal'),
    tuples=dict(classifier_weight=0),
    classifier=dict(embedding_weight=0),
    authors=dict(embedding_weight=1000.0, classifier_weight=100.0),
    instances=dict(samples='instances'),
    as_published=dict(
        samples='instances', centered=False, level_weights='equal', embedding_weight=1000.0, classifier_weight=100.0
    ),
)
weight = dict(type='mmkd_graph.GradientRatio', ratio=0.5)
methods = {
    name: dict(type='mmkd_graph.REFILLEDLoss', num_classes=3, loss_weight=weight, **change)
    for name, change in changes.items()
}
methods['_delete_'] = True
tune = None
del changes, weight
