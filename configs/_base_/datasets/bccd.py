# Blood cells (BCCD, https://github.com/Shenggan/BCCD_Dataset, MIT): 205 / 87 / 72 images of 640x480.
# data_root holds JPEGImages/, Annotations/ and ImageSets/Main/{train,val,test}.txt.
# train.txt trains, val.txt chooses settings, test.txt is only for the numbers that are reported.
data_root = 'data/bccd/'
metainfo = dict(classes=('RBC', 'WBC', 'Platelets'), palette=[(220, 20, 60), (60, 90, 200), (250, 170, 30)])
image_scale = (256, 192)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=image_scale, keep_ratio=True),
    # A cell has no upright position.
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_scale, keep_ratio=True),
    # After Resize: the ground truth keeps the coordinates of the original image.
    dict(type='LoadAnnotations', with_bbox=True),
    # 'instances' lets CocoMetric build its ground truth from the XML files.
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances'),
    ),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='XMLDataset',
        data_root=data_root,
        ann_file='ImageSets/Main/train.txt',
        # JPEGImages and Annotations lie directly in data_root.
        data_prefix=dict(sub_data_root=''),
        metainfo=metainfo,
        # bbox_min_size: one training box (BloodImage_00343) has no area and becomes an ignored instance. The
        # other one (BloodImage_00338, in val) stays in the ground truth, as an object nobody can find.
        filter_cfg=dict(filter_empty_gt=True, min_size=32, bbox_min_size=1),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='XMLDataset',
        data_root=data_root,
        ann_file='ImageSets/Main/val.txt',
        data_prefix=dict(sub_data_root=''),
        metainfo=metainfo,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader['dataset'], ann_file='ImageSets/Main/test.txt'))
del test_dataloader['persistent_workers']

# Without ann_file CocoMetric converts the ground truth itself; AP is COCO's, AP50 close to VOC's "area" mAP.
val_evaluator = dict(type='CocoMetric', metric='bbox', classwise=True)
test_evaluator = val_evaluator
