# The teacher: the student's detector on a ResNet-18 of full width.
# Leaves work_dirs/retinanet_r18-w64_fpn-64_1k_bccd/iter_1000.pth
# Run: python tools/train.py configs/bccd/retinanet_r18-w64_fpn-64_1k_bccd.py
_base_ = './retinanet_r18-w16_fpn-64_1k_bccd.py'

model = dict(backbone=dict(base_channels=64), neck=dict(in_channels=[128, 256, 512]))
