from __future__ import annotations

import copy
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import import_tool
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

from mmkd_graph.distillers import GraphDistiller
from mmkd_graph.testing import families, tiny_retinanet
from mmkd_graph.testing.round_trip import find, head_losses, same


@pytest.fixture(scope='module')
def zoo():
    return import_tool('benchmark/zoo')


def test_families_are_the_folders_that_hold_models():
    names = families.families()
    assert {'retinanet', 'mask2former', 'soft_teacher', 'reid'} <= set(names)
    assert not {'_base_', 'common'} & set(names)


def test_models_of_a_family_come_smallest_backbone_first():
    models, unreadable = families.models_of('yolox')
    names = [Path(name).stem.split('_')[1] for name in models]
    sizes = ('nano', 'tiny', 's', 'm', 'l', 'x')
    assert [name for name in names if name in sizes] == [size for size in sizes if size in names]
    assert {'nano', 'tiny', 's', 'l', 'x'} <= set(names)
    assert not unreadable


def test_every_pair_names_configs_that_exist(zoo):
    for pair in zoo.PAIRS:
        assert (families.CONFIGS / pair.student).exists(), pair.student
        assert (families.CONFIGS / pair.teacher).exists(), pair.teacher
    assert len({pair.name for pair in zoo.PAIRS}) == len(zoo.PAIRS)


def test_what_is_finished_is_kept_and_done_again_only_when_asked(zoo, tmp_path, capsys):
    asked = []

    def run(task, seconds, memory, folder):
        asked.append(task)
        state = 'failed' if task == 'fcos' and len(asked) < 3 else 'ok'
        return families.Outcome(task, f'{task}/a.py', 'retinanet/b.py', state, strides=(8, 16), side=128, predictions=3)

    out = ['--out', str(tmp_path)]
    assert zoo.main(['--families', 'yolox', 'fcos', *out], run) == 1, 'a failure is no success'
    assert zoo.main(['--families', 'yolox', 'fcos', 'gfl', *out], run) == 1
    assert asked == ['yolox', 'fcos', 'gfl']
    assert zoo.main(['--families', 'fcos', '--again', *out], run) == 0
    assert zoo.main(['--families', 'yolox', 'fcos', *out], run) == 0
    assert asked == ['yolox', 'fcos', 'gfl', 'fcos']
    rows = json.loads((tmp_path / 'families.json').read_text())
    assert [(row['family'], row['state'], row['strides']) for row in rows] == [
        ('yolox', 'ok', [8, 16]),
        ('fcos', 'ok', [8, 16]),
    ]
    assert '| yolox | a | retinanet/b | works | 8 16 |' in (tmp_path / 'families.md').read_text()
    with pytest.raises(SystemExit):
        zoo.main(['--families', 'yolocks', *out], run)
    assert 'yolocks' in capsys.readouterr().err


def test_a_family_goes_on_to_other_parts_where_a_config_is_refused(monkeypatch):
    models = {'f/a.py': dict(type='Tracker'), 'f/b.py': dict(type='Detector'), 'f/c.py': dict(type='Detector')}
    states = {'f/a.py': 'refused', 'f/b.py': 'ok'}
    monkeypatch.setattr(families, 'models_of', lambda family: (models, {}))

    def tried(family, student, _models):
        return families.Outcome(
            family, student, state=states[student], reason='no extract_feat' * (student == 'f/a.py')
        )

    monkeypatch.setattr(families, 'try_student', tried)
    found = families.try_family('f')
    assert (found.student, found.state, found.reason) == ('f/b.py', 'ok', 'a refused: no extract_feat')
    states['f/b.py'] = 'mmdet'
    assert families.try_family('f').student == 'f/a.py', 'where none works, the first says why'


def test_the_table_names_the_packages_that_were_there(zoo):
    text = zoo.table([families.Outcome('gfl', 'gfl/a.py', 'gfl/b.py', 'mmdet', 'a | b')], 'family')
    assert '| gfl | a | b | fails without distillation too: a \\| b |  |  |  |' in text
    assert '1: 1 fails without distillation too.' in text
    assert f'torch {torch.__version__}' in text.splitlines()[-1]


def test_a_process_that_takes_too_long_is_ended(tmp_path):
    begin = time.perf_counter()
    outcome = families.limited('retinanet', 0.05, 2**33, tmp_path)
    assert (outcome.family, outcome.state) == ('retinanet', 'failed')
    assert 'more than 0.05 s' in outcome.reason
    assert time.perf_counter() - begin < 60


def test_the_reason_of_a_process_that_dies_is_its_last_line(tmp_path):
    nowhere = families.Pair('no such config', 'nowhere/student.py', 'nowhere/teacher.py')
    outcome = families.limited(nowhere, 60, 2**33, tmp_path)
    assert outcome.state == 'failed' and 'nowhere/student.py' in outcome.reason


def test_predictions_are_the_same_only_bit_for_bit():
    box = torch.tensor([[0.0, 1, 2, 3]])

    def made(**change):
        fields = dict(bboxes=HorizontalBoxes(box), scores=torch.tensor([0.5]), masks=np.ones((1, 2, 2), bool))
        return InstanceData(**{**fields, **change})

    assert same(made(), made())
    assert not same(made(), made(scores=torch.tensor([0.5 + 1e-7])))
    assert not same(made(), made(bboxes=HorizontalBoxes(box + 1)))
    assert not same(made(), made(masks=np.zeros((1, 2, 2), bool)))
    assert not same(made(), InstanceData(bboxes=HorizontalBoxes(box)))


def test_offline_keeps_the_architecture_and_drops_what_is_loaded():
    model = families.read('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    model.backbone.norm_cfg.type = 'SyncBN'
    model.data_preprocessor.batch_augments = [dict(type='BatchFixedSizePad', size=(1024, 1024))]
    kept = copy.deepcopy(model)
    small = families.offline(model, 96)
    assert small.backbone.init_cfg is None and small.backbone.norm_cfg.type == 'BN'
    assert small.data_preprocessor.batch_augments[0].size == (96, 96)
    assert small.test_cfg.rcnn.score_thr == 0 and small.test_cfg.rpn.min_bbox_size == -1
    assert small.train_cfg.rpn_proposal.min_bbox_size == 0
    assert small.backbone.depth == 50 and small.rpn_head == model.rpn_head
    assert model == kept, 'the config given was changed'
    assert families.offline(dict(backbone=dict(pretrained=True)), 96).backbone.pretrained is False, 'timm takes a bool'
    queries = families.offline(families.read('queryinst/queryinst_r50_fpn_1x_coco.py'), 96)
    assert all(find(queries, 'clip_border')), 'no mask can be pasted outside the image'


@pytest.mark.parametrize(
    'change',
    [
        dict(taps=dict(student='backbone.conv1', teacher='backbone.layer4')),
        dict(taps=dict(teacher='bbox_head')),
        dict(teacher=dict(config=dict(type='RetinaNot'), strict=False)),
    ],
    ids=str,
)
def test_reasons_that_are_the_teachers_begin_so(student, teacher, change):
    options = dict(student=student, teacher=teacher, losses=dict(kd=dict(type='FitNetLoss')))
    with pytest.raises(ValueError) as caught:
        GraphDistiller(**{**options, **change})
    assert str(caught.value).startswith(families.OF_TEACHERS)


def test_losses_of_heads_that_fit_are_those_that_can_be_built():
    teacher = dict(config=tiny_retinanet(), strict=False)
    crg = dict(crg=dict(type='mmkd_graph.CRGLoss'))
    same_towers = GraphDistiller(student=tiny_retinanet(), teacher=teacher, losses=crg)
    # one convolution a tower: CrossKD asks for three
    assert head_losses(same_towers) == ('ScoreKDLoss', 'DISTLoss')
    other_classes = GraphDistiller(student=tiny_retinanet(num_classes=5), teacher=teacher, losses=crg)
    assert head_losses(other_classes) == ()
