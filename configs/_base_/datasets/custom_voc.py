# Your own data in VOC's format (XML), for a config that is made of parts, as configs/bccd/ is. Copy this file and
# change these six lines; everything below follows from them. For a detector that brings its own data and pipelines
# (all of mmdet's configs), give the copy, or the folder, to tools/new_config.py --data: docs/own_data.md
own_type = 'XMLDataset'
own_root = 'data/pets'
own_classes = ('cat', 'dog')
own_train = dict(ann_file='ImageSets/Main/train.txt', data_prefix=dict(sub_data_root=''))
own_val = dict(ann_file='ImageSets/Main/val.txt', data_prefix=dict(sub_data_root=''))
own_test = dict(ann_file='ImageSets/Main/test.txt', data_prefix=dict(sub_data_root=''))
# Below own_root/sub_data_root are JPEGImages/<name>.jpg and Annotations/<name>.xml; other folders' names are the
# options img_subdir and ann_subdir of each split.

# Width and height in pixels that images are resized to fit into.
image_scale = (1000, 600)

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
    # 'instances' lets CocoMetric make its ground truth of the XML files.
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances'),
    ),
]

dataset = dict(type=own_type, data_root=own_root, metainfo=dict(classes=own_classes))
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        dataset,
        **own_train,
        # Images without a box, and smaller than 32 pixels, are left out; a box without area is ignored.
        filter_cfg=dict(filter_empty_gt=True, min_size=32, bbox_min_size=1),
        pipeline=train_pipeline,
    ),
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

# COCO's AP, from the XML files; its AP50 is close to VOC's mAP (eval_mode='area').
val_evaluator = dict(type='CocoMetric', metric='bbox')
test_evaluator = val_evaluator
