# Five classes of PASCAL VOC 2007, official splits: 942 / 400 / 565 images of at most 500 pixels. Make data_root with
# tools/dataset/select_voc_subset.py. trainval trains; the test split is divided once: tune chooses settings, report is
# only for the numbers that are reported.
data_root = 'data/voc07_5c/'
metainfo = dict(
    classes=('bus', 'car', 'cat', 'person', 'train'),
    palette=[(0, 60, 100), (0, 0, 142), (255, 77, 255), (220, 20, 60), (0, 80, 100)],
)
# The model's pad_size_divisor of 256 makes every batch 256x256, so that the features of an image are those of any
# other batch. (Pad would hide how much of an image is its own.)
image_scale = (256, 256)

# An image and its mirror image: a teacher that is kept sees no more than these two (tools/compare.py --keep-teacher).
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
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        ann_file='annotations/trainval.json',
        data_prefix=dict(img='JPEGImages/'),
        metainfo=metainfo,
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        ann_file='annotations/tune.json',
        data_prefix=dict(img='JPEGImages/'),
        metainfo=metainfo,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader['dataset'], ann_file='annotations/report.json'))

# AP is COCO's; difficult boxes are crowds, which neither count nor harm.
val_evaluator = dict(type='CocoMetric', ann_file=data_root + 'annotations/tune.json', metric='bbox', classwise=True)
test_evaluator = dict(val_evaluator, ann_file=data_root + 'annotations/report.json')
