# Teacher and student know three of the six kinds of shapes each, and none in common.
_base_ = './shapes.py'
teacher = 'configs/demo/retinanet_teacher-half_shapes.py'
student = 'configs/demo/retinanet_student-half_shapes.py'
pretrain = 'configs/demo/retinanet_student-half-pretrain_shapes.py'
# CRG is taken apart, too: its features (vertices), and its graphs (edges and spectrum).
weight = dict(type='mmkd_graph.GradientRatio', ratio=1.0)
methods = dict(
    refilled=dict(num_classes=3),
    vertices=dict(type='mmkd_graph.CRGLoss', edge_weight=0, spectral_weight=0, loss_weight=weight),
    graphs=dict(type='mmkd_graph.CRGLoss', vertex_weight=0, loss_weight=weight),
)
del weight
