# Your own data in COCO's format (JSON), for a config that is made of parts, as configs/bccd/ is. Copy this file and
# change these six lines; everything below follows from them. For a detector that brings its own data and pipelines
# (all of mmdet's configs), give the copy, or the folder, to tools/new_config.py --data: docs/own_data.md
own_type = 'CocoDataset'
own_root = 'data/pets'
own_classes = ('cat', 'dog')
own_train = dict(ann_file='annotations/train.json', data_prefix=dict(img='images/'))
own_val = dict(ann_file='annotations/val.json', data_prefix=dict(img='images/'))
own_test = dict(ann_file='annotations/test.json', data_prefix=dict(img='images/'))

# Width and height in pixels that images are resized to fit into.
image_scale = (1333, 800)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=image_scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_scale, keep_ratio=True),
    # After Resize: the ground truth keeps the coordinates of the original image.
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

dataset = dict(type=own_type, data_root=own_root, metainfo=dict(classes=own_classes))
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    # Images without a box, and smaller than 32 pixels, are left out.
    dataset=dict(dataset, **own_train, filter_cfg=dict(filter_empty_gt=True, min_size=32), pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(dataset, **own_val, test_mode=True, pipeline=test_pipeline),
)
test_dataloader = dict(val_dataloader, dataset=dict(dataset, **own_test, test_mode=True, pipeline=test_pipeline))

# COCO's AP.
val_evaluator = dict(type='CocoMetric', ann_file=f'{own_root}/{own_val["ann_file"]}', metric='bbox')
test_evaluator = dict(type='CocoMetric', ann_file=f'{own_root}/{own_test["ann_file"]}', metric='bbox')
