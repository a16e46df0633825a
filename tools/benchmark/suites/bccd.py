# Every method on blood cells; data/bccd/ as configs/_base_/datasets/bccd.py says.
_base_ = './shapes.py'
teacher = 'configs/bccd/retinanet_r18-w32_fpn-64_bccd.py'
student = 'configs/bccd/retinanet_r18-w8_fpn-64_bccd.py'
pretrain = None
methods = dict(refilled=dict(num_classes=3))
