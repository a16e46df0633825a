"""The last lines of a training; tests/tools/test_cycle.py runs their commands, engine/test_runner.py resumes."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop

from mmkd_graph.hooks import StudentExportHook, TrainingSummaryHook
from mmkd_graph.hooks.training_summary_hook import summary


class Epochs(EpochBasedTrainLoop):
    def __init__(self) -> None:
        pass


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Of a training by iterations that has left ``iter_6.pth``, as far as the lines read it."""
    monkeypatch.chdir(tmp_path)
    Path('distilled.py').write_text("model = dict(type='mmkd_graph.GraphDistiller')")
    Path('work').mkdir()
    Path('work/iter_6.pth').touch()
    monkeypatch.setattr(sys, 'argv', ['tools/train.py', 'distilled.py', '--resume'])
    return SimpleNamespace(
        cfg=Config.fromfile('distilled.py'),
        work_dir='work',
        train_loop=None,
        hooks=[CheckpointHook(by_epoch=False)],
        message_hub=SimpleNamespace(runtime_info=dict(last_ckpt='elsewhere/work/iter_6.pth')),
    )


def noted(*metrics: dict[str, Any]) -> None:
    content = [dict(iter=2 * i, epoch=i, metrics=one) for i, one in enumerate(metrics, 1)]
    Path('work/validated.json').write_text(json.dumps(content))


def test_best_and_last_value_and_the_commands(runner: SimpleNamespace) -> None:
    """A per-class value comes first in the evaluator's results, and is not what counts; the work dir was moved."""
    noted({'coco/cat_precision': 0.9, 'coco/bbox_mAP': 0.2}, {'coco/bbox_mAP': 0.4}, {'coco/bbox_mAP': 0.3})
    metric, teacher, checkpoint, test, mmdets, gain = summary(runner)
    assert metric == 'coco/bbox_mAP: best 0.4000 at iteration 4, last 0.3000 at iteration 6'
    assert teacher == 'AP of the teacher, which a training does not measure: python -m mmkd_graph check distilled.py'
    assert checkpoint == 'checkpoint: work/iter_6.pth (last)'
    assert test == 'test: python -m mmkd_graph test distilled.py work/iter_6.pth'
    assert 'mmdet' in mmdets and mmdets.endswith('test.py work/distilled.py work/iter_6.pth')
    assert gain == (
        'gain over the student alone (trains both students once for each seed, 6 trainings): '
        'python -m mmkd_graph compare distilled.py --seeds 0 1 2'
    )


def test_the_kept_best_checkpoint_is_tested_and_the_export_is_named(runner: SimpleNamespace) -> None:
    noted({'pascal_voc/mAP': 0.4, 'pascal_voc/AP50': 0.5}, {'pascal_voc/mAP': 0.3, 'pascal_voc/AP50': 0.6})
    Path('work/best.pth').touch()
    runner.hooks = [CheckpointHook(save_best='auto'), StudentExportHook()]
    runner.train_loop = Epochs()
    runner.message_hub.runtime_info |= dict(best_ckpt='work/best.pth', best_score=0.4)
    metric, _, checkpoint, plain, test, mmdets, _ = summary(runner)
    assert metric == 'pascal_voc/mAP: best 0.4000 at epoch 1, last 0.3000 at epoch 2'
    assert checkpoint == 'checkpoint: work/iter_6.pth (last), work/best.pth (best)'
    assert plain.endswith('the last weights: work/student.pth with work/student.py')
    assert test.endswith('distilled.py work/best.pth')
    assert 'LOAD=1 python ' in mmdets and mmdets.endswith('work/student.py work/best.pth')
    Path('work/best.pth').unlink()
    *_, test, mmdets, _ = summary(runner)
    assert test.endswith('distilled.py work/iter_6.pth')
    assert 'LOAD' not in mmdets and mmdets.endswith('work/student.py work/student.pth')


def test_several_metrics_with_rules_of_their_own(runner: SimpleNamespace) -> None:
    noted(dict(a=1.0, b=1.0), dict(a=2.0, b=2.0))
    runner.hooks = [CheckpointHook(save_best=['a', 'b'], rule=['less', 'greater'])]
    first, second, *_ = summary(runner)
    assert first == 'a: best 1.0000 at iteration 2, last 2.0000 at iteration 4'
    assert second == 'b: best 2.0000 at iteration 4, last 2.0000 at iteration 4'
    runner.hooks = []
    assert summary(runner)[0] == 'a: last 2.0000 at iteration 4', 'nobody knows what is better'


def test_nothing_is_said_that_is_not_known(runner: SimpleNamespace) -> None:
    runner.message_hub.runtime_info.clear()
    assert summary(runner) == ['no checkpoint was saved'], 'without validations'
    noted({}, {})
    assert summary(runner)[0].startswith('the validations gave no metric')
    noted(dict(acc=0.5), {})
    assert summary(runner)[0] == 'acc: best 0.5000 at iteration 2, none in the last validation'
    Path('work/validated.json').write_text('[2, 4]')  # of a run that an older version began
    runner.hooks = [CheckpointHook(save_best='acc')]
    noted_later = [2, dict(iter=4, epoch=0, metrics=dict(acc=0.5))]
    Path('work/validated.json').write_text(json.dumps(noted_later))
    runner.message_hub.runtime_info['best_score'] = 0.75
    assert summary(runner)[0] == 'acc: best 0.7500, last 0.5000 at iteration 4'


@pytest.mark.parametrize('words', [['--cfg-options', 'x=1'], ['--cfg-options=x=1'], ['--amp']])
def test_a_config_that_was_changed_is_named_by_its_copy(
    runner: SimpleNamespace, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, 'argv', [*sys.argv, *words])
    assert ' compare work/distilled.py ' in summary(runner)[-1]
    monkeypatch.setattr(sys, 'argv', ['notebook'])
    assert ' compare work/distilled.py ' in summary(runner)[-1]


def test_it_is_one_record_of_the_log(runner: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    runner.logger = logging.getLogger('summary')
    with caplog.at_level(logging.INFO):
        TrainingSummaryHook().after_train(runner)
    (record,) = caplog.records
    assert record.message.startswith('The distilled student:\n  checkpoint: work/iter_6.pth (last)\n  test: python ')


def test_a_plain_detector_has_the_lines_but_for_those_of_a_distillation(
    runner: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    runner.cfg.model.type = 'RetinaNet'
    runner.logger = logging.getLogger('summary')
    noted({'coco/bbox_mAP': 0.2})
    with caplog.at_level(logging.INFO):
        TrainingSummaryHook().after_train(runner)
    title, metric, checkpoint, test, mmdets = caplog.records[0].message.split('\n  ')
    assert title == 'The trained detector:' and metric.startswith('coco/bbox_mAP: best 0.2000')
    assert checkpoint.startswith('checkpoint: ') and test.startswith('test: ') and mmdets.startswith('test with mmdet')
    assert 'test distilled.py ' in test and ' work/distilled.py ' in mmdets, (
        'which needs no base that mmdet cannot find'
    )
