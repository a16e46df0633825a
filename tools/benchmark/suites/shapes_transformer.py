# The demonstration's student with a teacher of another architecture, a pyramid vision transformer.
_base_ = './shapes.py'
teacher = 'configs/demo/retinanet_pvt-teacher_shapes.py'
# Chosen on the validation split, see shapes_transformer_lfcc.py.
methods = dict(lfcc=dict(samples='cells'))
