# Teacher and student know three of the six kinds of shapes each, and none in common.
_base_ = './shapes.py'
teacher = 'configs/demo/retinanet_teacher-half_shapes.py'
student = 'configs/demo/retinanet_student-half_shapes.py'
pretrain = 'configs/demo/retinanet_student-half-pretrain_shapes.py'
methods = dict(refilled=dict(num_classes=3))
