"""The table of jobs, from the folder of a real training of six iterations."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import SHAPES_RUN, import_tool
from jobs import run
from mmengine.registry import init_default_scope

from mmkd_graph.datasets import CLASSES, generate_shapes
from mmkd_graph.testing import tiny_retinanet

TRAINING = """
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2)
train_dataloader['sampler'] = dict(type='DefaultSampler', shuffle=True)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
log_processor = dict(by_epoch=True)
default_hooks = dict(logger=dict(type='LoggerHook', interval=1), checkpoint=dict(type='CheckpointHook', interval=1))
model = {model!r}
"""
LOG = """
    GPU 0,1,2,3: NVIDIA A100-SXM4-40GB
Runtime environment:
    GPU number: 4
"""


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a job leaves: three iterations an epoch, two epochs, and the test."""
    init_default_scope('mmdet')
    folder = tmp_path_factory.mktemp('trained')
    generate_shapes(folder / 'data', num_train=6, num_val=1, num_test=2)
    model = tiny_retinanet(num_classes=len(CLASSES))
    model['test_cfg'].update(score_thr=0.0)
    config, work = folder / 'work' / 'configs' / 'train' / 'student.py', folder / 'work'
    config.parent.mkdir(parents=True)
    text = SHAPES_RUN.format(data=f'{folder / "data"}/', classes=tuple(CLASSES)) + TRAINING.format(model=model)
    config.write_text(text)
    run('train.py', config, '--work-dir', work, log=folder / 'train.log')
    run('test.py', config, work / 'epoch_2.pth', '--work-dir', work / 'test', log=folder / 'test.log')
    for mark in ('trained', 'tested'):
        (work / mark).touch()
    return work


def rewrite(work: Path, ap: float) -> None:
    """Another AP in the metrics of a run."""
    (path,) = (work / 'test').glob('*/[0-9]*.json')
    metrics = {**json.loads(path.read_text()), 'coco/bbox_mAP': ap, 'coco/bbox_mAP_50': 2 * ap}
    path.write_text(json.dumps(metrics))


def test_the_table_says_what_the_folders_hold(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Gains are paired: crg's second seed is not finished, and does not count."""
    suite, folder = tmp_path / 'tiny.py', tmp_path / 'work' / 'tiny'
    config = trained / 'configs' / 'train' / 'student.py'
    methods = "dict(crg=dict(type='CRGLoss'), pkd=dict(type='PKDLoss'), mgd=dict(type='MGDLoss'))"
    said = "dict(ap=41.0, setting='2x', source='MGD'), dict(ap=40.5, setting='1x', source='FGD')"
    suite.write_text(
        f'teacher = student = {str(config)!r}\nmethods = {methods}\n'
        f"reported = dict(pkd=[dict(ap=40.8, setting='2x', source='FGD')], mgd=[{said}])\n"
    )
    for name, ap in {
        'student-0': 0.2,
        'student-1': 0.3,
        'crg-0': 0.25,
        'crg-1': 0.9,
        'pkd-0': 0.25,
        'pkd-1': 0.33,
    }.items():
        shutil.copytree(trained, folder / name)
        rewrite(folder / name, ap)
    for mark in ('trained', 'tested'):
        (folder / 'crg-1' / mark).unlink()
    (log,) = (folder / 'crg-1').glob('*/*.log')
    log.write_text(re.sub(r'(?m)^.*Epoch\(train\) +\[2\]\[ *[23]/.*\n', '', log.read_text()))
    # as on GPUs
    (log,) = (folder / 'pkd-0').glob('*/*.log')
    log.write_text(log.read_text() + LOG)
    (scalars,) = (folder / 'pkd-0').glob('*/vis_data/scalars.json')
    lines = [{**json.loads(line), 'memory': 3000 + i, 'time': 1.5} for i, line in enumerate(scalars.open())]
    scalars.write_text(''.join(json.dumps(line) + '\n' for line in lines))

    collect = import_tool('benchmark/coco/collect')
    assert collect.main([str(suite), '--work-dir', str(tmp_path / 'work')]) == 0
    table = capsys.readouterr().out
    rows = {
        cells[1].strip(): [x.strip() for x in cells[2:-1]] for x in table.splitlines() if (cells := x.split('|'))[2:]
    }
    assert rows['teacher'] == [''] * 7 + ['not submitted', '']
    assert (
        rows['student'][0] == '25.0 ± 63.5' and rows['student'][2] == '' and rows['student'][7:] == ['6', '20.0, 30.0']
    )
    assert rows['crg'][0] == '25.0' and rows['crg'][2] == '+5.0'
    assert rows['crg'][7] == 'seed 0: 6; seed 1: at 4 of 6' and rows['crg'][8] == '25.0'
    assert rows['pkd'][2] == '+4.0 ± 12.7' and rows['pkd'][3] == '40.8 (2x) [1]'
    assert rows['pkd'][4:7] == ['1.500', str(3000 + len(lines) - 1), f'{1.5 * 6 * 4 / 3600:.1f}']
    assert rows['mgd'][3] == '41.0 (2x) [2], 40.5 (1x) [1]' and '[1] FGD' in table and '[2] MGD' in table
    assert '4 × NVIDIA A100-SXM4-40GB' in table and 'AP is 100 × `coco/bbox_mAP`' in table
    assert float(rows['student'][4]) > 0 and rows['student'][5:7] == ['', '']
    written = json.loads((tmp_path / 'work' / 'results.json').read_text())
    assert written['tiny']['pkd']['1']['score']['value'] == pytest.approx(33.0)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        import_tool('benchmark/coco/collect').main(['--work-dir', str(tmp_path / 'none')])
    assert 'none: no such folder; accepted: that of submit.py' in capsys.readouterr().err
