# The student of the other half of the shapes: it shares no class with that teacher.
# Run: python tools/train.py configs/demo/retinanet_student-half_shapes.py
_base_ = './retinanet_student_shapes.py'

metainfo = dict(classes=('checked_disc', 'striped_triangle', 'checked_star'))
model = dict(bbox_head=dict(num_classes=3))
train_dataloader = dict(dataset=dict(metainfo=metainfo))
val_dataloader = dict(dataset=dict(metainfo=metainfo))
test_dataloader = dict(dataset=dict(metainfo=metainfo))
