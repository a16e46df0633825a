# The small student alone: RetinaNet on a ResNet-18 of width 8, blood cells, 400 iterations from scratch.
# Run: python tools/train.py configs/bccd/retinanet_r18-w8_fpn-64_bccd.py
# A seed other than 0: add --cfg-options randomness.seed=1 --work-dir work_dirs/<another name>
_base_ = [
    '../_base_/models/retinanet_r18-w8_fpn-64_gn.py',
    '../_base_/datasets/bccd.py',
    '../_base_/schedules/adamw_400.py',
]
