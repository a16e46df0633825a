# The same on blood cells; data/bccd/ as configs/_base_/datasets/bccd.py says.
_base_ = './shapes_ablation.py'
teacher = 'configs/bccd/retinanet_r18-w32_fpn-64_bccd.py'
student = 'configs/bccd/retinanet_r18-w8_fpn-64_bccd.py'
pretrain = None
