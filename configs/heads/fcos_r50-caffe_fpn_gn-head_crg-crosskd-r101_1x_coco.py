# FCOS R-50, 1x (36.6 box AP alone), learns from FCOS R-101 (40.8) by CrossKD and, between the
# pyramids, CRG.
# Run:    python tools/train.py configs/heads/fcos_r50-caffe_fpn_gn-head_crg-crosskd-r101_1x_coco.py
# 8 GPUs: bash tools/dist_train.sh configs/heads/fcos_r50-caffe_fpn_gn-head_crg-crosskd-r101_1x_coco.py 8
_base_ = './fcos_r50-caffe_fpn_gn-head_crosskd-r101_1x_coco.py'

model = dict(losses=dict(crg=dict(type='mmkd_graph.CRGLoss')))
