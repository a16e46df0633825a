# Every method on the demonstration set: python tools/dataset/make_shapes.py first.
teacher = 'configs/demo/retinanet_teacher-long_shapes.py'
student = 'configs/demo/retinanet_student_shapes.py'
pretrain = 'configs/demo/retinanet_student-pretrain_shapes.py'
methods = dict(
    crg=dict(type='mmkd_graph.CRGLoss'),
    mhgd=dict(type='mmkd_graph.MHGDLoss'),
    lfcc=dict(type='mmkd_graph.LFCCLoss'),
    refilled=dict(type='mmkd_graph.REFILLEDLoss', num_classes=6),
    fitnet=dict(type='mmkd_graph.FitNetLoss'),
    cwd=dict(type='mmkd_graph.CWDLoss'),
    pkd=dict(type='mmkd_graph.PKDLoss'),
    fgd=dict(type='mmkd_graph.FGDLoss'),
    mgd=dict(type='mmkd_graph.MGDLoss'),
)
# The ratio of the loss's gradient to the task's at the pyramid, at the start.
for loss in methods.values():
    loss['loss_weight'] = dict(type='mmkd_graph.GradientRatio', ratio=1.0)
del loss
# Its own network has to have learned something before the student's term says anything.
methods['mhgd']['loss_weight']['iterations'] = 150
tune = dict(key='loss_weight.ratio', values=[0.125, 0.5, 2.0, 8.0, 32.0])
