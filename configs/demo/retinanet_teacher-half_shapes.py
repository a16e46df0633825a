# A teacher that knows half of the shapes: of every outline one filling.
# Run: python tools/train.py configs/demo/retinanet_teacher-half_shapes.py
_base_ = './retinanet_teacher-long_shapes.py'

metainfo = dict(classes=('striped_disc', 'checked_triangle', 'striped_star'))
model = dict(bbox_head=dict(num_classes=3))
train_dataloader = dict(dataset=dict(metainfo=metainfo))
val_dataloader = dict(dataset=dict(metainfo=metainfo))
test_dataloader = dict(dataset=dict(metainfo=metainfo))
