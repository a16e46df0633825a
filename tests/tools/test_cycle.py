"""The whole way through the command line: train a teacher, distil, resume, evaluate here and with mmdet's own tools."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmkd_graph.datasets import CLASSES, generate_shapes
from mmkd_graph.testing import tiny_retinanet

ROOT = Path(__file__).resolve().parents[2]
MMDET_TOOLS = Path(importlib.util.find_spec('mmdet').origin).parent / '.mim' / 'tools'

COMMON = """
default_scope = 'mmdet'
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(96, 64), keep_ratio=False)]
meta = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
def loader(split, training):
    return dict(
        batch_size=2, num_workers=0, drop_last=False,
        sampler=dict(type='InfiniteSampler' if training else 'DefaultSampler', shuffle=training),
        dataset=dict(
            type='CocoDataset', data_root={data!r}, metainfo=dict(classes={classes!r}),
            ann_file=f'annotations/instances_{{split}}.json', data_prefix=dict(img='VOC2007/JPEGImages/'),
            test_mode=not training, pipeline=[*load, dict(type='PackDetInputs', meta_keys=meta)]))
train_dataloader = loader('train', True)
val_dataloader = loader('val', False)
test_dataloader = loader('test', False)
val_evaluator = dict(type='CocoMetric', ann_file={data!r} + 'annotations/instances_val.json', metric='bbox')
test_evaluator = dict(type='CocoMetric', ann_file={data!r} + 'annotations/instances_test.json', metric='bbox')
train_cfg = dict(type='IterBasedTrainLoop', max_iters=6, val_interval=6)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
del loader
"""


def call(script: Path, *arguments: object) -> str:
    # mmdet's own tools need this to read checkpoints with upstream mmengine and torch 2.6 or newer; ours do not
    settings = {**os.environ, 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD': '1'} if script.is_relative_to(MMDET_TOOLS) else None
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=240, env=settings)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def call_printed(log: Path, line: str, *arguments: object) -> None:
    """Run the command that the last lines of a training name."""
    (command,) = (text.partition(f'{line}: ')[2] for text in log.read_text().splitlines() if f'  {line}: ' in text)
    python, script, *words = shlex.split(command)
    assert python == 'python'
    call((ROOT / script), *words, *arguments)


def metrics(folder: Path) -> dict[str, float]:
    (path,) = folder.glob('*/[0-9]*.json')
    found = json.loads(path.read_text())
    return {k: v for k, v in found.items() if k.startswith('coco/')}


@pytest.fixture(scope='module')
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a trained teacher, and the configs of student and distilled student."""
    folder = tmp_path_factory.mktemp('cycle')
    generate_shapes(folder / 'data', seed=0, num_train=6, num_val=2, num_test=4)
    common = COMMON.format(data=f'{folder / "data"}/', classes=tuple(CLASSES))
    models = {
        'teacher': tiny_retinanet(base_channels=16, fpn_channels=32, num_classes=len(CLASSES)),
        'student': tiny_retinanet(num_classes=len(CLASSES)),
    }
    for name, model in models.items():
        (folder / f'{name}.py').write_text(f'{common}\nmodel = {model!r}\n')
    (folder / 'distilled.py').write_text(
        f"""_base_ = './student.py'
model = dict(
    _delete_=True,
    type='mmkd_graph.GraphDistiller',
    student={{{{_base_.model}}}},
    teacher=dict(config={str(folder / 'teacher.py')!r}, checkpoint={str(folder / 'teacher' / 'iter_6.pth')!r}),
    losses=dict(crg=dict(type='mmkd_graph.CRGLoss')))
custom_hooks = [dict(type='mmkd_graph.StudentExportHook'), dict(type='EMAHook')]
"""
    )
    call(ROOT / 'tools' / 'train.py', folder / 'teacher.py', '--work-dir', folder / 'teacher')
    output = call(ROOT / 'tools' / 'train.py', folder / 'distilled.py', '--work-dir', folder / 'distilled')
    (folder / 'distilled.log').write_text(output)
    return folder


def test_the_checkpoint_is_a_plain_one(job: Path) -> None:
    state = torch.load(job / 'distilled' / 'iter_6.pth', weights_only=False)['state_dict']
    exported = torch.load(job / 'distilled' / 'student.pth', weights_only=True)
    student = exported['state_dict']
    assert {k for k in state if k.startswith('distill.')} and not any('teacher' in k for k in state)
    assert set(student) == {k for k in state if not k.startswith('distill.')}
    assert all(torch.equal(state[k], v) for k, v in student.items()), 'the export is not what evaluation sees'
    assert exported['meta']['dataset_meta']['classes'] == tuple(CLASSES)
    assert 'mmkd_graph' not in (job / 'distilled' / 'student.py').read_text()


def test_resume_goes_on_and_ends_where_the_whole_run_ended(job: Path) -> None:
    resumed = job / 'resumed'
    resumed.mkdir()
    shutil.copy(job / 'distilled' / 'iter_3.pth', resumed)
    (resumed / 'last_checkpoint').write_text(str(resumed / 'iter_3.pth'))
    output = call(ROOT / 'tools' / 'train.py', job / 'distilled.py', '--work-dir', resumed, '--resume')
    assert 'Iter(train) [4/6]' in output and 'Iter(train) [3/6]' not in output
    whole, part = (
        torch.load(folder / 'iter_6.pth', weights_only=False)['state_dict'] for folder in (job / 'distilled', resumed)
    )
    assert list(whole) == list(part)
    assert all(torch.equal(whole[k], part[k]) for k in whole)


def test_same_result_here_and_with_mmdets_own_tools(job: Path) -> None:
    checkpoint = job / 'distilled' / 'iter_6.pth'
    call_printed(job / 'distilled.log', 'test', '--work-dir', job / 'test-ours')
    call(MMDET_TOOLS / 'test.py', job / 'student.py', checkpoint, '--work-dir', job / 'test-plain')
    call_printed(job / 'distilled.log', "test with mmdet's own tool", '--work-dir', job / 'test-exported')
    ours, plain, alone = (metrics(job / f'test-{name}') for name in ('ours', 'plain', 'exported'))
    assert ours == plain == alone and 'coco/bbox_mAP' in ours


def test_mmdets_own_train_runs_the_same_config(job: Path) -> None:
    call(
        MMDET_TOOLS / 'train.py',
        job / 'distilled.py',
        '--work-dir',
        job / 'mmdet',
        '--cfg-options',
        'train_cfg.max_iters=3',
    )
    ours, theirs = (
        torch.load(job / name / 'iter_3.pth', weights_only=False)['state_dict'] for name in ('distilled', 'mmdet')
    )
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
