from __future__ import annotations

from conftest import import_tool


def test_sizes_of_transforms_shrink_and_nothing_else_changes():
    pipeline = [
        dict(type='CachedMosaic', img_scale=(640, 640), pad_val=114.0),
        dict(type='RandomResize', scale=(1280, 1280), ratio_range=(0.5, 2.0)),
        dict(type='MultiBranch', branches=[dict(type='RandomCrop', crop_size=(100, 640))]),
        dict(type='Pad', size=(640, 640), pad_val=dict(img=(114, 114, 114))),
    ]
    assert import_tool('benchmark/coco_iterations').shrink(pipeline, 4) == [
        dict(type='CachedMosaic', img_scale=(160, 160), pad_val=114.0),
        dict(type='RandomResize', scale=(320, 320), ratio_range=(0.5, 2.0)),
        dict(type='MultiBranch', branches=[dict(type='RandomCrop', crop_size=(32, 160))]),
        dict(type='Pad', size=(160, 160), pad_val=dict(img=(114, 114, 114))),
    ]
