"""Which config a checkpoint was trained with: read without running it, and compared without false alarms."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmkd_graph.distillers import GraphDistiller
from mmkd_graph.distillers import teacher as teacher_module
from mmkd_graph.distillers.provenance import differences, image_scales, trained_config
from mmkd_graph.distillers.teacher import resolve_model_config
from mmkd_graph.testing import tiny_retinanet
from mmkd_graph.testing.round_trip import CONFIGS

CRG = dict(crg=dict(type='mmkd_graph.CRGLoss'))


def changed(**values) -> dict:
    """The small RetinaNet with values at dotted keys, None to remove them."""
    model = tiny_retinanet()
    for key, value in values.items():
        *path, last = key.split('__')
        node = model
        for name in path:
            node = node.setdefault(name, {})
        node.pop(last, None)
        if value is not None:
            node[last] = value
    return model


def said(trained: dict, given: dict, **more) -> list[str]:
    return [f'{"!" if x.matters else ""}{x}' for x in differences(dict(model=trained, **more), given)]


GN = dict(type='GN', num_groups=16, requires_grad=True)


@pytest.mark.parametrize(
    ('trained', 'given', 'words'),
    [
        (
            dict(backbone__norm_cfg=GN),
            dict(backbone__norm_cfg=dict(GN, num_groups=8)),
            "!backbone.norm_cfg.num_groups: 16 in the checkpoint's config, 8 in teacher.config",
        ),
        (dict(backbone__norm_cfg=GN), {}, '!backbone.norm_cfg.type: '),
        (dict(neck__upsample_cfg=dict(mode='bilinear')), {}, "!neck.upsample_cfg.mode: 'bilinear' in"),
        ({}, dict(neck__upsample_cfg=dict(mode='nearest', scale_factor=2)), '!neck.upsample_cfg.scale_factor'),
        (dict(neck__relu_before_extra_convs=True), {}, '!neck.relu_before_extra_convs: True in'),
        (dict(neck__start_level=0), {}, '!neck.start_level: 0 in'),
        (dict(backbone__style='caffe'), {}, "!backbone.style: 'caffe' in"),
        (dict(backbone__dcn=dict(type='DCN')), {}, '!backbone.dcn: '),
        (dict(data_preprocessor__mean=[103.53, 116.28, 123.675]), {}, '!data_preprocessor.mean: [103.53'),
        (dict(data_preprocessor__bgr_to_rgb=False), {}, '!data_preprocessor.bgr_to_rgb: False in'),
        (dict(data_preprocessor__std=[1.0] * 3), {}, '!data_preprocessor.std: [1.0] in'),
        (dict(data_preprocessor__pad_size_divisor=128), {}, 'data_preprocessor.pad_size_divisor: 128 in'),
        (dict(bbox_head__anchor_generator__octave_base_scale=8), {}, 'bbox_head.anchor_generator.octave_base_scale: 8'),
    ],
)
def test_what_changes_a_teacher_is_named_by_its_key(trained, given, words):
    (line,) = said(changed(**trained), changed(**given))
    assert line.startswith(words)
    assert not said(changed(**trained), changed(**trained)) and not said(changed(**given), changed(**given))


@pytest.mark.parametrize(
    'values',
    [
        # how it is trained
        dict(backbone__init_cfg=dict(type='Pretrained', checkpoint='x'), backbone__frozen_stages=1, pretrained='x'),
        dict(backbone__norm_cfg=dict(type='SyncBN', requires_grad=False), backbone__norm_eval=True),
        dict(backbone__with_cp=True, train_cfg=dict(debug=True), test_cfg=dict(score_thr=0.3)),
        dict(bbox_head__loss_cls=dict(type='CrossEntropyLoss', class_weight=[1.0]), bbox_head__num_classes=3),
        # defaults that are written out, or not
        dict(
            backbone__style='pytorch', backbone__num_stages=4, backbone__out_indices=[0, 1, 2, 3], backbone__dcn=False
        ),
        dict(neck__end_level=-1, neck__upsample_cfg=dict(mode='nearest'), neck__norm_cfg={}, neck__conv_cfg=False),
        dict(backbone__norm_cfg=dict(type='BN', eps=1e-5, momentum=0.2)),
        dict(data_preprocessor__pad_value=0, data_preprocessor__type='TrackDataPreprocessor'),
        dict(data_preprocessor__mean=(123.675, 116.28, 103.53), neck__in_channels=(8, 16, 32, 64)),
        dict(type='mmdet.RetinaNet', backbone__type='mmdet.models.backbones.resnet.ResNet'),
        dict(backbone__act_cfg=dict(type='ReLU', inplace=True)),
        # what no class of today takes
        dict(backbone__of_an_older_version=3, of_an_older_version=3),
    ],
)
def test_what_does_not_is_no_difference(values):
    assert not said(changed(**values), tiny_retinanet()) and not said(tiny_retinanet(), changed(**values))


@pytest.mark.parametrize(
    'name',
    [
        'retinanet/retinanet_r50_fpn_1x_coco.py',
        'faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py',
        'detr/detr_r50_8xb2-150e_coco.py',
        'ssd/ssd300_coco.py',
        'gn/mask-rcnn_r50_fpn_gn-all_2x_coco.py',
    ],
)
def test_a_config_is_what_its_own_text_says(name):
    cfg = Config.fromfile(CONFIGS / name)
    cfg._format_python_code = False
    trained = trained_config(dict(cfg=cfg.pretty_text))
    assert differences(trained, resolve_model_config(cfg, 'x')) == []
    assert image_scales(trained) == image_scales(cfg)


def test_schedules_and_devices_of_one_architecture_are_the_same():
    one, other = (Config.fromfile(CONFIGS / f'retinanet/retinanet_r50_fpn_{kind}_coco.py') for kind in ('1x', 'amp-1x'))
    assert differences(one.to_dict(), other.model) == []
    caffe = Config.fromfile(CONFIGS / 'retinanet/retinanet_r50-caffe_fpn_1x_coco.py')
    keys = {x.key for x in differences(one.to_dict(), caffe.model)}
    assert keys == {'backbone.style', 'data_preprocessor.mean', 'data_preprocessor.std', 'data_preprocessor.bgr_to_rgb'}


OLD = """
img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
model = dict(type='RetinaNet', pretrained='open-mmlab://x', backbone=%r, neck=%r, bbox_head=dict(anchor_ratios=[1]))
data = dict(train=dict(type='RepeatDataset', dataset=dict(pipeline=[
    dict(type='Resize', img_scale=[(1333, 640), (1333, 800)], multiscale_mode='range'),
    dict(type='Normalize', mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False),
    dict(type='Pad', size_divisor=32)])))
"""


@pytest.mark.parametrize(('on_inputs', 'today'), [(True, 'on_input'), (False, 'on_output')])
def test_extra_levels_in_the_words_of_mmdet_2(on_inputs, today):
    old = changed(neck__add_extra_convs=True, neck__extra_convs_on_inputs=on_inputs)
    assert not said(old, changed(neck__add_extra_convs=today))
    assert said(old, changed(neck__add_extra_convs='on_lateral'))


def test_configs_of_mmdet_2_say_the_same_elsewhere():
    model = tiny_retinanet()
    trained = trained_config(dict(config=OLD % (model['backbone'], model['neck'])))
    keys = [x.key for x in differences(trained, model)]
    assert keys == ['data_preprocessor.mean', 'data_preprocessor.std', 'data_preprocessor.bgr_to_rgb']
    assert image_scales(trained) == (640, 800)


@pytest.mark.parametrize(
    ('resize', 'sides'),
    [
        (dict(type='Resize', scale=(1333, 800), keep_ratio=True), (800, 800)),
        (dict(type='mmdet.FixShapeResize', scale=640), (640, 640)),
        (dict(type='RandomChoiceResize', scales=[(480, 1333), (800, 1333)]), (480, 800)),
        (dict(type='RandomResize', scale=(1024, 1024), ratio_range=(0.5, 2.0)), (512, 2048)),
        (dict(type='RandomResize', scale=[(1333, 640), (1333, 800)]), (640, 800)),
        (dict(type='Pad', size=(640, 640)), None),
    ],
)
def test_image_scales_of_pipelines(resize, sides):
    assert image_scales(dict(train_dataloader=dict(dataset=dict(dataset=dict(pipeline=[resize]))))) == sides
    assert image_scales(None) is None


@pytest.mark.parametrize(
    ('model', 'prefix'),
    [
        (dict(type='mmkd_graph.GraphDistiller', student=tiny_retinanet(), teacher=dict(config='x')), ''),
        (dict(type='SoftTeacher', detector=tiny_retinanet()), 'teacher.'),
        (dict(type='mmrazor.SingleTeacherDistill', architecture=tiny_retinanet(), teacher={}), 'architecture.'),
        (dict(type='Own', inner=dict(model=tiny_retinanet())), 'inner.model.'),
    ],
)
def test_the_detector_in_another_model_is_compared(model, prefix):
    assert differences(dict(model=model), tiny_retinanet(), prefix) == []
    assert len(differences(dict(model=model), changed(backbone__style='caffe'), prefix)) == 1


def test_where_there_is_nothing_to_compare_nothing_is_said():
    assert differences(None, tiny_retinanet()) is None
    assert differences(dict(model=dict(type='Tracker', tracker={})), tiny_retinanet()) is None
    assert differences(dict(model=tiny_retinanet()), dict(type='Wrapper')) is None
    for meta in ({}, dict(cfg=None), dict(cfg='model = 3'), dict(cfg='model = dict(')):
        assert trained_config(meta) is None


def test_reading_runs_nothing(tmp_path: Path) -> None:
    made = str(tmp_path / 'made')
    hostile = [
        f"model = dict(type='A', x=__import__('os').mkdir({made!r}))",
        f"model = dict(type='A')\n__import__('os').mkdir({made!r})",
        f"model = dict(type='A', **__import__('os').mkdir({made!r}))",
        f"model = [open({made!r}, 'w')]\n_base_ = {made!r}\ncustom_imports = dict(imports=['antigravity'])",
        f"import os; os.mkdir({made!r}); model = dict(type='A')",
        f"model = dict(type='A', x=(lambda: open({made!r}, 'w'))(), y=f'{{open({made!r}, \"w\")}}', z=9**9**9)",
        f"dict = open\nmodel = dict({made!r}, mode='w')",
        'model = ' + '[' * 5000,
        'model = ' + '-' * 100_000 + '1',
        'model = ' + '+'.join(['1'] * 100_000),
        'model = "\0"',
        'x' * 3_000_000,
    ]
    for text in hostile:
        trained = trained_config(dict(cfg=text))
        assert trained is None or differences(trained, tiny_retinanet()) is None
    assert not (tmp_path / 'made').exists()
    # types come out of the file too: no module is imported for one
    named = dict(model=changed(backbone__type='antigravity.ResNet', neck__type='antigravity'))
    differences(named, tiny_retinanet())
    assert 'antigravity' not in sys.modules


def test_a_teacher_tells_what_differs_when_it_is_built(student, teacher, monkeypatch):
    lines = []
    monkeypatch.setattr(teacher_module, 'print_log', lambda message, **_: lines.append(message))
    assert GraphDistiller(student, teacher, CRG).teacher.differences is None
    assert 'does not hold a config that could be compared' in lines[-1]
    content = torch.load(teacher['checkpoint'])
    content['meta'] = dict(cfg=f'model = {teacher["config"]}')
    torch.save(content, teacher['checkpoint'])
    lines.clear()
    assert GraphDistiller(student, teacher, CRG).teacher.differences == [] and not lines
    other = copy.deepcopy(teacher['config'])
    other['neck']['relu_before_extra_convs'] = True
    model = GraphDistiller(student, dict(teacher, config=other), CRG)
    assert [x.key for x in model.teacher.differences] == ['neck.relu_before_extra_convs']
    assert lines == [
        "teacher.config: neck.relu_before_extra_convs: False in the checkpoint's config, True in teacher.config"
    ]
