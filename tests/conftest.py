"""Small detectors and weights that the tests make on the spot."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mmkd_graph.engine.start import without_optional_parts

with without_optional_parts():  # pytest would show it at its end
    import mmdet.datasets  # noqa: F401

from jobs import TOOLS
from mmengine.registry import init_default_scope

import mmkd_graph.distillers  # noqa: F401 - registers the distiller
from mmkd_graph.checkpoints import allow_logs
from mmkd_graph.testing import annotated, raw_batch, save_weights, tiny_retinanet  # noqa: F401 - for the tests

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
    """The program ``tools/<name>.py`` as a module, such as ``'train'`` or ``'benchmark/zoo'``."""
    spec = importlib.util.spec_from_file_location(f'tool_{Path(name).name}', TOOLS / f'{name}.py')
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def mmdet_scope() -> None:
    """Every test starts in mmdet's scope, as its runner would."""
    init_default_scope('mmdet')


@pytest.fixture(autouse=True)
def resumable() -> None:
    """Runners that a test makes itself resume with upstream mmengine too, as those of ``tools/train.py`` do."""
    allow_logs()


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
    return raw_batch()
