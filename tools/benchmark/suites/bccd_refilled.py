# What the authors' weights of REFILLED are worth, on blood cells, at the ratio that bccd.py chooses.
_base_ = './bccd.py'
changes = dict(
    refilled=dict(),
    authors=dict(embedding_weight=1000.0, classifier_weight=100.0),
    tuples=dict(classifier_weight=0),
    classifier=dict(embedding_weight=0),
)
weight = dict(type='mmkd_graph.GradientRatio', ratio=0.5)
methods = {
    name: dict(type='mmkd_graph.REFILLEDLoss', num_classes=3, loss_weight=weight, **change)
    for name, change in changes.items()
}
methods['_delete_'] = True
tune = None
del changes, weight
