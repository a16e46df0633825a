"""Small detectors and weights that the tests make on the spot."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

with contextlib.redirect_stdout(io.StringIO()):  # what mmdet prints when it is imported, pytest would show at its end
    import mmdet.datasets  # noqa: F401

from jobs import TOOLS
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

import mmkd_graph.distillers  # noqa: F401 - registers the distiller
from mmkd_graph.checkpoints import allow_logs

# For ``format``: data, the folder of a generated set with a slash at its end, and classes.
SHAPES_RUN = """
default_scope = 'mmdet'
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(96, 64), keep_ratio=False),
        dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
dataset = dict(
    type='CocoDataset', data_root={data!r}, metainfo=dict(classes={classes!r}), pipeline=load,
    data_prefix=dict(img='VOC2007/JPEGImages/'))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler'),
    dataset=dict(ann_file='annotations/instances_train.json', **dataset))
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(ann_file='annotations/instances_test.json', test_mode=True, **dataset))
test_evaluator = dict(type='CocoMetric', ann_file={data!r} + 'annotations/instances_test.json', metric='bbox')
test_cfg = dict(type='TestLoop')
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
"""


def import_tool(name: str) -> ModuleType:
    """A module of ``tools/`` (``'train'``, ``'benchmark/zoo'``), with its neighbours importable while it loads."""
    folder, _, module = name.rpartition('/')
    sys.path.insert(0, str(TOOLS / folder))
    try:
        return importlib.import_module(module)
    finally:
        sys.path.pop(0)


@pytest.fixture(autouse=True)
def mmdet_scope() -> None:
    """Every test starts in mmdet's scope, as its runner would."""
    init_default_scope('mmdet')


@pytest.fixture(autouse=True)
def resumable() -> None:
    """Runners that a test makes itself resume with upstream mmengine too, as those of ``tools/train.py`` do."""
    allow_logs()


def tiny_retinanet(base_channels: int = 8, fpn_channels: int = 16, num_classes: int = 3) -> dict[str, Any]:
    """A RetinaNet of some 20 thousand weights with pyramid P3-P7."""
    return dict(
        type='RetinaNet',
        data_preprocessor=dict(
            type='DetDataPreprocessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            pad_size_divisor=32,
        ),
        backbone=dict(
            type='ResNet', depth=18, base_channels=base_channels, stem_channels=base_channels, norm_eval=False
        ),
        neck=dict(
            type='FPN',
            in_channels=[base_channels * 2**i for i in range(4)],
            out_channels=fpn_channels,
            start_level=1,
            add_extra_convs='on_output',
            num_outs=5,
        ),
        bbox_head=dict(
            type='RetinaHead',
            num_classes=num_classes,
            in_channels=fpn_channels,
            feat_channels=fpn_channels,
            stacked_convs=1,
            anchor_generator=dict(
                type='AnchorGenerator',
                octave_base_scale=4,
                scales_per_octave=1,
                ratios=[1.0],
                strides=[8, 16, 32, 64, 128],
            ),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
            loss_cls=dict(type='FocalLoss', use_sigmoid=True, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0),
        ),
        train_cfg=dict(
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
            sampler=dict(type='PseudoSampler'),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        test_cfg=dict(
            nms_pre=100, min_bbox_size=0, score_thr=0.01, nms=dict(type='nms', iou_threshold=0.5), max_per_img=20
        ),
    )


def save_weights(model: dict[str, Any], path: Path, seed: int = 7) -> str:
    """Initialise ``model`` from ``seed`` and save it as an mmengine checkpoint."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        detector = MMDET_MODELS.build(copy.deepcopy(model))
        detector.init_weights()
    torch.save(dict(state_dict=detector.state_dict(), meta={}), path)
    return str(path)


def annotated(boxes: Sequence, labels: Sequence[int]) -> DetDataSample:
    """A sample with ground truth alone: (x1, y1, x2, y2) boxes in pixels, and their labels."""
    sample = DetDataSample()
    sample.gt_instances = InstanceData(
        bboxes=torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.as_tensor(labels, dtype=torch.long),
    )
    return sample


@pytest.fixture
def student() -> dict[str, Any]:
    """Model dict of the student."""
    return tiny_retinanet()


@pytest.fixture
def teacher(tmp_path: Path) -> dict[str, Any]:
    """``teacher=`` of a wider RetinaNet, with weights."""
    model = tiny_retinanet(base_channels=16, fpn_channels=32)
    return dict(config=model, checkpoint=save_weights(model, tmp_path / 'teacher.pth'))


@pytest.fixture
def batch() -> dict[str, Any]:
    """Two raw images of 96x64 and 64x96 pixels with two boxes and one."""
    generator = torch.Generator().manual_seed(0)
    samples, images = [], []
    for shape, boxes in (((96, 64), [[4, 4, 40, 60], [20, 8, 60, 40]]), ((64, 96), [[10, 10, 70, 50]])):
        images.append(torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=generator))
        sample = DetDataSample(
            metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0), img_id=len(samples))
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32), labels=torch.arange(len(boxes)) % 3
        )
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)
