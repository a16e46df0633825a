# The demonstration's student with the teacher's channel graphs as a second target. Train the teacher first.
# Run: python tools/train.py configs/demo/retinanet_student_crg_shapes.py
_base_ = ['./retinanet_student_shapes.py', '../_base_/pictures.py']

model = dict(
    _delete_=True,
    type='mmkd_graph.GraphDistiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmkd_graph::demo/retinanet_teacher_shapes.py',
        checkpoint='work_dirs/retinanet_teacher_shapes/iter_1000.pth',
    ),
    losses=dict(crg=dict(type='mmkd_graph.CRGLoss', loss_weight=2.0)),
)
