"""What is read of work dirs: curves over interruptions, checkpoints, roles."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from mmengine.config import Config

from mmkd_graph.reporting.trainings import (
    ALONE,
    DISTILLED,
    OTHER,
    TEACHER,
    ReportError,
    Training,
    main_metric,
    read_training,
    with_roles,
)
from mmkd_graph.testing import tiny_retinanet


def log(folder: Path, name: str, *rows: dict) -> None:
    path = folder / name / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    path.with_name('config.py').write_text(f'model = {tiny_retinanet()!r}\n')


def train(iteration: int, loss: float) -> dict:
    return {'lr': 0.1, 'loss': loss, 'loss_kd.crg.vertex': loss / 2, 'iter': iteration, 'step': iteration}


def validate(value: float) -> dict:
    return {'coco/bbox_mAP': value, 'coco/bbox_mAP_50': 2 * value, 'time': 0.2, 'data_time': 0.1, 'step': 0}


def test_a_resumed_training_replaces_what_came_after_its_checkpoint(tmp_path):
    log(tmp_path, '1', train(10, 9), validate(0.1), train(20, 8), validate(0.2), train(30, 7))
    log(tmp_path, '2', train(20, 6), validate(0.3), train(30, 5), validate(0.4))
    found = read_training(tmp_path)
    assert found.terms['loss'] == [[10, 9], [20, 6], [30, 5]]
    assert found.metrics['coco/bbox_mAP'] == [[10, 0.1], [20, 0.3], [30, 0.4]]
    assert set(found.metrics) == {'coco/bbox_mAP', 'coco/bbox_mAP_50'}
    assert set(found.terms) == {'lr', 'loss', 'loss_kd.crg.vertex'}


def test_a_training_that_began_anew_in_the_folder_counts_alone(tmp_path):
    log(tmp_path, '1', train(10, 9), validate(0.1), train(20, 8))
    log(tmp_path, '2', train(10, 7), validate(0.3))
    found = read_training(tmp_path)
    assert found.terms['loss'] == [[10, 7]] and found.metrics['coco/bbox_mAP'] == [[10, 0.3]]


def test_validations_are_where_the_training_noted_them(tmp_path):
    log(tmp_path, '1', train(10, 9), validate(0.1), train(20, 8), validate(0.2))
    (tmp_path / 'validated.json').write_text('[12, 24]')
    assert read_training(tmp_path).metrics['coco/bbox_mAP'] == [[12, 0.1], [24, 0.2]]
    (tmp_path / 'validated.json').write_text('[12]')  # of another part of the training
    assert read_training(tmp_path).metrics['coco/bbox_mAP'] == [[10, 0.1], [20, 0.2]]


def test_cut_lines_and_names_with_their_mode_are_read(tmp_path):
    log(tmp_path, '1', {'train/loss': 3.0, 'iter': 5}, {'val/pascal_voc/mAP': 0.5, 'step': 1})
    with (tmp_path / '1/vis_data/scalars.json').open('a') as file:
        file.write('{"loss": 1.0, "it')
    found = read_training(tmp_path)
    assert found.terms == {'loss': [[5, 3.0]]} and found.metrics == {'pascal_voc/mAP': [[5, 0.5]]}
    assert main_metric([found]) == 'pascal_voc/mAP'
    assert main_metric([Training(tmp_path, Config(), {}, {'lvis/bbox_AP': [[5, 0.5]]})]) == 'lvis/bbox_AP'
    assert main_metric([Training(tmp_path, Config(), {}, {})]) is None


def test_what_cannot_be_read_is_named_in_one_line(tmp_path):
    for folder, message in ((tmp_path / 'gone', 'does not exist'), (tmp_path, 'LocalVisBackend')):
        with pytest.raises(ReportError, match=f'work dir {folder} .*{message}'):
            read_training(folder)
    log(tmp_path, '1', validate(0.1))
    with pytest.raises(ReportError, match='no line of a training yet'):
        read_training(tmp_path)
    (tmp_path / '1/vis_data/config.py').write_text('model = 1 / 0')
    with pytest.raises(ReportError, match='ZeroDivisionError'):
        read_training(tmp_path)


def test_the_best_checkpoint_comes_before_the_last_also_in_a_moved_folder(tmp_path):
    training = Training(tmp_path, Config(), {}, {})
    assert training.checkpoint('best') is None
    for age, name in enumerate(['iter_100', 'iter_90', 'best_ap_iter_10', 'best_ap_iter_90', 'student']):
        (tmp_path / f'{name}.pth').touch()
        os.utime(tmp_path / f'{name}.pth', (age, age))
    assert training.checkpoint('best').stem == 'best_ap_iter_90'
    assert training.checkpoint('last').stem == 'iter_100'
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/iter_90.pth')
    assert training.checkpoint('last').stem == 'iter_90'


def trainings(tmp_path: Path, *models: dict) -> list[Training]:
    return [Training(tmp_path / str(i), Config(dict(model=model)), {}, {}) for i, model in enumerate(models)]


def distilled(tmp_path: Path, teacher: dict) -> dict:
    teacher = dict(config=teacher, checkpoint=str(tmp_path / '3' / 'iter_1.pth'))
    return dict(type='mmkd_graph.GraphDistiller', student=tiny_retinanet(), teacher=teacher, losses=dict())


def test_roles_follow_from_the_models(tmp_path):
    wide = tiny_retinanet(base_channels=16)
    alone = tiny_retinanet()
    alone['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint='x')
    found = with_roles(trainings(tmp_path, distilled(tmp_path, wide), wide, alone, tiny_retinanet(num_classes=9)))
    assert [one.role for one in found] == [DISTILLED, TEACHER, ALONE, OTHER]
    assert found[-1].label == '3' and found[0].label == 'distilled student (0)'


def test_of_two_equal_models_the_teacher_is_the_one_with_its_checkpoint(tmp_path):
    same = tiny_retinanet()
    found = with_roles(trainings(tmp_path, distilled(tmp_path, same), same, distilled(tmp_path, same), same))
    assert [one.role for one in found] == [DISTILLED, ALONE, OTHER, TEACHER]


def test_the_first_one_has_to_be_a_distillation(tmp_path):
    with pytest.raises(ReportError, match=r'0 is of a RetinaNet; accepted: .*GraphDistiller'):
        with_roles(trainings(tmp_path, tiny_retinanet()))
