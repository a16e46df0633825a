# Parts and settings of the channel graphs, each of them alone or left out; windows have 4 cells a side where none is
# named. The gradient ratio is 2, the middle one of the values that the methods of shapes.py
# choose from.
teacher = 'configs/demo/retinanet_teacher-long_shapes.py'
student = 'configs/demo/retinanet_student_shapes.py'
pretrain = 'configs/demo/retinanet_student-pretrain_shapes.py'
changes = dict(
    crg=dict(),
    vertices=dict(edge_weight=0, spectral_weight=0),
    edges=dict(vertex_weight=0, spectral_weight=0),
    spectrum=dict(vertex_weight=0, edge_weight=0),
    no_vertices=dict(vertex_weight=0),
    no_edges=dict(edge_weight=0),
    no_spectrum=dict(spectral_weight=0),
    window2=dict(window=2),
    window5=dict(window=5),
    whole_maps=dict(window=1024),
    # Without vertices, where the window counts most.
    graphs_window2=dict(vertex_weight=0, window=2),
    graphs_window5=dict(vertex_weight=0, window=5),
    graphs_of_whole_maps=dict(vertex_weight=0, window=1024),
    no_attention=dict(temperature=None),
    sharp_attention=dict(temperature=0.5),
    levels_alike=dict(level_weights='equal'),
    full_edges=dict(edge_weight=10.0),
    full_spectrum=dict(spectral_weight=10.0),
)
weight = dict(type='mmkd_graph.GradientRatio', ratio=2.0)
methods = {name: dict(type='mmkd_graph.CRGLoss', loss_weight=weight, **change) for name, change in changes.items()}
del changes, weight
