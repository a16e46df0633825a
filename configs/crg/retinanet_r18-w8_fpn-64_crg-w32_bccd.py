# The small student on blood cells, learns from the detector of four times its width through channel graphs.
# Train the teacher first: configs/bccd/retinanet_r18-w32_fpn-64_bccd.py
# Run: python tools/train.py configs/crg/retinanet_r18-w8_fpn-64_crg-w32_bccd.py
_base_ = '../bccd/retinanet_r18-w8_fpn-64_bccd.py'

model = dict(
    _delete_=True,
    type='mmkd_graph.GraphDistiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmkd_graph::bccd/retinanet_r18-w32_fpn-64_bccd.py',
        checkpoint='work_dirs/retinanet_r18-w32_fpn-64_bccd/iter_1500.pth',
    ),
    losses=dict(crg=dict(type='mmkd_graph.CRGLoss', loss_weight=4.0)),
)

# A list replaces the inherited one, so the averaging of the weights stands here again.
custom_hooks = [dict(type='EMAHook', momentum=0.01), dict(type='mmkd_graph.GraphPicturesHook')]
