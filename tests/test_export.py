"""The plain student in files that mmdet reads by itself."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcv.ops import nms
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmdet.datasets import CocoDataset
from mmdet.models import L1Loss, ResNet, RetinaNet
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hooks import CheckpointHook

from mmkd_graph.datasets.seeding import SeededSampler
from mmkd_graph.distillers import GraphDistiller
from mmkd_graph.export import export_student, student_config
from mmkd_graph.hooks import SafeCheckpointHook, StudentExportHook
from mmkd_graph.testing import tiny_retinanet

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 64), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]


def distillation(student: Any = None, **more: Any) -> Config:
    """A config as ``tools/train.py`` leaves it: this package around everything."""
    dataset = dict(type='CocoDataset', ann_file='nowhere.json', metainfo=dict(classes=('a', 'b', 'c')))
    return Config(
        dict(
            model=dict(
                type='mmkd_graph.GraphDistiller',
                student=student or tiny_retinanet(),
                teacher=dict(config='teacher.py', checkpoint='teacher.pth'),
                losses=dict(crg=dict(type='mmkd_graph.CRGLoss')),
            ),
            default_hooks=dict(
                logger=dict(type='LoggerHook'), checkpoint=dict(type='mmkd_graph.SafeCheckpointHook', interval=2)
            ),
            custom_hooks=[dict(type='mmkd_graph.StudentExportHook'), dict(type='EMAHook')],
            custom_imports=dict(imports=['mmkd_graph.hooks', 'mmdet.models']),
            train_dataloader=dict(
                sampler=dict(type='mmkd_graph.SeededSampler', sampler=dict(type='InfiniteSampler')),
                dataset=dict(dataset, pipeline=[]),
            ),
            val_dataloader=dict(dataset=dict(dataset, pipeline=copy.deepcopy(PIPELINE))),
            val_cfg=dict(type='ValLoop'),
            val_evaluator=dict(type='CocoMetric'),
            runner_type='mmkd_graph.Runner',
            work_dir='distilled',
            load_from='start.pth',
            resume=True,
            launcher='pytorch',
            **more,
        )
    )


def test_the_students_config_is_plain() -> None:
    given = distillation()
    before = given.pretty_text
    text = student_config(given).pretty_text
    assert given.pretty_text == before
    assert 'mmkd_graph' not in text
    plain = Config.fromstring(text, '.py')
    assert plain.model.to_dict() == given.model.student.to_dict()
    assert plain.custom_hooks == [dict(type='EMAHook')]
    assert plain.custom_imports.imports == ['mmdet.models']
    assert plain.default_hooks.checkpoint == dict(type='CheckpointHook', interval=2)
    assert plain.train_dataloader.sampler == dict(type='InfiniteSampler')
    assert plain.test_dataloader == plain.val_dataloader and plain.test_cfg.type == 'TestLoop'
    assert (plain.load_from, plain.resume, plain.launcher, plain.default_scope) == (None, False, 'none', 'mmdet')
    assert not {'work_dir', 'runner_type', 'teacher', 'losses'} & {*plain}
    assert student_config(plain).to_dict() == plain.to_dict(), 'of a plain config it is the same'


def test_a_preprocessor_beside_the_model_is_in_the_students() -> None:
    given = distillation()
    beside = given.model.student.pop('data_preprocessor')
    given.data_preprocessor = beside
    assert student_config(given).model.data_preprocessor == beside


def test_what_the_config_says_for_tests_stays() -> None:
    own = dict(
        test_dataloader=dict(batch_size=7), test_cfg=dict(type='MyLoop'), visualizer=dict(type='V'), default_scope='x'
    )
    plain = student_config(distillation(**own))
    assert {key: plain[key] for key in own} == own


def test_classes_become_names_that_mmdet_finds() -> None:
    """L1Loss's module is hidden by a function of the same name, and mmcv evaluates the name of an nms."""
    model = tiny_retinanet()
    model['type'], model['backbone']['type'] = RetinaNet, ResNet
    model['bbox_head']['loss_bbox']['type'] = L1Loss
    model['test_cfg']['nms']['type'] = nms
    config = distillation(model, default_scope=None)
    config.model.type = GraphDistiller
    config.custom_hooks[0].type = StudentExportHook
    config.default_hooks.checkpoint.type = SafeCheckpointHook
    config.train_dataloader.sampler.type = SeededSampler
    config.train_dataloader.dataset.type = CocoDataset
    text = student_config(config).pretty_text
    assert 'mmkd_graph' not in text
    plain = Config.fromstring(text, '.py')
    assert type(MODELS.build(plain.model).bbox_head.loss_bbox) is L1Loss
    assert plain.model.test_cfg.nms.type == 'nms'
    assert plain.default_hooks.checkpoint.type == CheckpointHook.__name__
    assert plain.train_dataloader.dataset.type.endswith('.CocoDataset')


def test_inference_needs_the_weights_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = MODELS.build(tiny_retinanet())
    student.init_weights()
    state = student.state_dict()
    state['distill.adapter.weight'] = torch.ones(1)
    state._metadata['distill.adapter'] = dict(version=1)
    # of concatenated data sets that differ in their palettes
    metainfo = [dict(classes=('a', 'b', 'c'), palette=np.full((3, 3), i), share=np.float32(0.5)) for i in range(2)]
    config = export_student(
        dict(state_dict=state, meta=dict(iter=5, epoch=1, dataset_meta=metainfo, seed=3)),
        distillation(),
        tmp_path / 'best.pth',
    )
    assert config == tmp_path / 'best.py' and {p.name for p in tmp_path.iterdir()} == {'best.pth', 'best.py'}
    content = torch.load(tmp_path / 'best.pth', weights_only=True)
    assert content['meta'].pop('mmengine_version')
    assert content['meta'].pop('cfg') == config.read_text()
    assert content['meta'] == dict(iter=5, epoch=1, dataset_meta=dict(classes=('a', 'b', 'c'), share=0.5))
    assert {*content['state_dict']} == {*state} - {'distill.adapter.weight'}
    assert 'distill.adapter' not in content['state_dict']._metadata and 'backbone' in content['state_dict']._metadata

    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    inferencer = DetInferencer(weights=str(tmp_path / 'best.pth'), device='cpu', show_progress=False)
    found = inferencer(image, return_datasamples=True, no_save_vis=True)['predictions'][0].pred_instances
    assert inferencer.visualizer.dataset_meta['classes'] == ('a', 'b', 'c')
    detector = init_detector(str(config), str(tmp_path / 'best.pth'), device='cpu')
    again = inference_detector(detector, image).pred_instances
    assert len(found) and torch.equal(found.bboxes, again.bboxes) and torch.equal(found.scores, again.scores)
    assert all(torch.equal(value, state[key]) for key, value in detector.state_dict().items())


def test_weights_do_not_go_where_the_config_goes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"student\.py'.*accepted"):
        export_student(dict(state_dict={}), distillation(), tmp_path / 'student.py')
    assert not [*tmp_path.iterdir()]
