# Five classes of PASCAL VOC 2007 with ImageNet backbones; configs/voc07_5c/ say how to make images and weights.
teacher = 'configs/voc07_5c/retinanet_lite2_fpn-64_voc07-5c.py'
student = 'configs/voc07_5c/retinanet_lite0_fpn-64_voc07-5c.py'
methods = dict(
    vertices=dict(type='mmkd_graph.CRGLoss', edge_weight=0, spectral_weight=0),
    crg=dict(type='mmkd_graph.CRGLoss'),
    edges_spectrum=dict(type='mmkd_graph.CRGLoss', vertex_weight=0),
    fitnet=dict(type='mmkd_graph.FitNetLoss'),
    pkd=dict(type='mmkd_graph.PKDLoss'),
)
# The ratio of the loss's gradient to the task's at the pyramid, at the start.
for loss in methods.values():
    loss['loss_weight'] = dict(type='mmkd_graph.GradientRatio', ratio=0.5)
del loss
# With its defaults and a weight of 1: without the key that is tuned.
methods['crg_untuned'] = dict(type='mmkd_graph.CRGLoss')
tune = dict(key='loss_weight.ratio', values=[0.5, 2.0, 8.0], seed=5)
seeds = [0, 1, 2, 3, 4]
