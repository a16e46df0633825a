# Losses of heads between two GFL, the only ones that LD fits: python tools/dataset/make_shapes.py first.
teacher = 'configs/demo/gfl_teacher-long_shapes.py'
student = 'configs/demo/gfl_student_shapes.py'
pretrain = 'configs/demo/gfl_student-pretrain_shapes.py'
methods = dict(
    score=dict(type='mmkd_graph.ScoreKDLoss'),
    dist=dict(type='mmkd_graph.DISTLoss'),
    ld=dict(type='mmkd_graph.LDLoss'),
    crosskd=dict(type='mmkd_graph.CrossKDLoss', stage=1),
    crg=dict(type='mmkd_graph.CRGLoss'),
    pkd=dict(type='mmkd_graph.PKDLoss'),
)
# The ratio of the loss's gradient to the task's at the pyramid, at the start.
for loss in methods.values():
    loss['loss_weight'] = dict(type='mmkd_graph.GradientRatio', ratio=0.5)
del loss
# With the weight of its authors: without the key that is tuned.
methods['ld_untuned'] = dict(type='mmkd_graph.LDLoss')
tune = dict(key='loss_weight.ratio', values=[0.125, 0.5, 2.0, 8.0], seed=5)
