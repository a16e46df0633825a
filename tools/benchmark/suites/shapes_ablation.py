# Parts and settings of the channel graphs, each of them alone or left out. All pull twice as hard as the task at the
# start, the middle one of the values that the methods of shapes.py choose from.
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
    # Late in training the gradient of edges that count as much as vertices is the largest of the three, and the
    # spectrum's always by far the smallest.
    full_edges=dict(edge_weight=10.0),
    strong_spectrum=dict(spectral_weight=40.0),
    unit_vertices=dict(vertex='unit'),
    raw_vertices=dict(vertex='raw'),
    levels_alike=dict(level_weights='alike'),
    levels_alike_no_edges=dict(level_weights='alike', edge_weight=0),
    levels_alike_full_edges=dict(level_weights='alike', edge_weight=10.0),
    sharp_attention=dict(temperature=0.5),
    no_attention=dict(spatial_attention=False, channel_attention=False, relational_attention=False),
    projection=dict(distance='projection'),
    light_projection=dict(distance='projection', spectral_weight=0.1),
    k4=dict(k=4),
    k8=dict(k=8),
    graph_of_the_batch=dict(graph='batch'),
)
weight = dict(type='mmkd_graph.GradientRatio', ratio=2.0)
methods = {
    name: dict(type='mmkd_graph.ChannelGraphLoss', loss_weight=weight, **change) for name, change in changes.items()
}
del changes, weight
