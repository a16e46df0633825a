# The demonstration's student with a teacher of another architecture, a pyramid vision transformer.
_base_ = './shapes.py'
teacher = 'configs/demo/retinanet_pvt-teacher_shapes.py'
