"""Killed, resumed, broken on the way: what ``tools/train.py`` promises, with real processes and signals.

Every run is that of a tiny distilled RetinaNet whose training draws random numbers wherever one can: augmentations in
Python's and NumPy's, the sampling of anchors in torch's, masks and dropped heads in the losses' own generators.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import Job, run, together
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmkd_graph.datasets import CLASSES, generate_shapes
from mmkd_graph.testing import save_weights, tiny_retinanet

# One line more for every further loss: it is then part of all runs here.
LOSSES = dict(
    crg=dict(
        type='mmkd_graph.CRGLoss',
        loss_weight=dict(type='mmkd_graph.GradientRatio', ratio=0.5, iterations=3),
    ),
    cwd=dict(type='mmkd_graph.CWDLoss'),
    fgd=dict(type='mmkd_graph.FGDLoss'),
    mgd=dict(type='mmkd_graph.MGDLoss'),
    mhgd=dict(type='mmkd_graph.MHGDLoss'),
    refilled=dict(type='mmkd_graph.REFILLEDLoss', num_classes=len(CLASSES)),
    lfcc=dict(type='mmkd_graph.LFCCLoss', embed_channels=8),
    fitnet=dict(type='mmkd_graph.FitNetLoss'),
    pkd=dict(type='mmkd_graph.PKDLoss'),
)

CONFIG = """
default_scope = 'mmdet'
meta = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(96, 64), keep_ratio=False), dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'), dict(type='PackDetInputs', meta_keys=meta)]
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler'),
    dataset=dict(
        type='CocoDataset', data_root={data!r}, metainfo=dict(classes={classes!r}), pipeline=pipeline,
        ann_file='annotations/instances_train.json', data_prefix=dict(img='VOC2007/JPEGImages/')))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=6)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3), clip_grad=dict(max_norm=10))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=6, by_epoch=False)]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1), checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
model = dict(
    type='mmkd_graph.GraphDistiller', student={student!r}, teacher=dict(config={teacher!r}, checkpoint={weights!r}),
    losses={losses!r})
custom_hooks = [
    dict(type='EMAHook', momentum=0.1),
    dict(type='mmkd_graph.LossScheduleHook', losses=['cwd'], warmup=3, policy='cosine', end=6, by_epoch=False)]
env_cfg = dict(dist_cfg=dict(timeout=60))
"""

EPOCHS = """
_base_ = './iterations.py'
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=3)
train_dataloader = dict(
    sampler=dict(type='DefaultSampler', shuffle=True), batch_sampler=dict(type='AspectRatioBatchSampler'))
default_hooks = dict(checkpoint=dict(by_epoch=True, interval=1))
log_processor = dict(by_epoch=True)
"""


def student() -> dict[str, Any]:
    model = tiny_retinanet(num_classes=len(CLASSES))
    model['bbox_head']['loss_cls'] = dict(type='CrossEntropyLoss', use_sigmoid=True)
    model['train_cfg']['sampler'] = dict(type='RandomSampler', num=16, pos_fraction=0.5, add_gt_as_proposals=False)
    return model


@pytest.fixture(scope='module')
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, teacher, and the configs ``iterations.py`` and ``epochs.py``."""
    init_default_scope('mmdet')
    folder = tmp_path_factory.mktemp('robustness')
    generate_shapes(folder / 'data', num_train=5, num_val=1, num_test=1)
    teacher = tiny_retinanet(base_channels=16, fpn_channels=32, num_classes=len(CLASSES))
    weights = save_weights(teacher, folder / 'teacher.pth')
    (folder / 'iterations.py').write_text(
        CONFIG.format(
            data=f'{folder / "data"}/',
            classes=tuple(CLASSES),
            student=student(),
            teacher=teacher,
            weights=weights,
            losses=LOSSES,
        )
    )
    (folder / 'epochs.py').write_text(EPOCHS)
    return folder


@pytest.fixture(scope='module')
def whole(home: Path) -> dict[str, Path]:
    """Work dirs of the uninterrupted runs."""
    for name in ('iterations', 'epochs'):
        run('train.py', home / f'{name}.py', '--work-dir', home / f'whole-{name}', log=home / f'whole-{name}.log')
    return {name: home / f'whole-{name}' for name in ('iterations', 'epochs')}


def saved(work_dir: Path) -> dict[str, Any]:
    return torch.load((work_dir / 'last_checkpoint').read_text(), weights_only=False)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal to the last bit; what was not measured yet is NaN on both sides."""
    return np.array_equal(one.numpy(), other.numpy(), equal_nan=one.is_floating_point())


def assert_same_end(one: Path, other: Path) -> None:
    """Weights, averaged weights, the losses' buffers and the optimizer's state are equal to the last bit."""
    a, b = saved(one), saved(other)
    assert a['meta']['iter'] == b['meta']['iter']
    for part in ('state_dict', 'ema_state_dict'):
        assert list(a[part]) == list(b[part])
        assert [key for key in a[part] if not same(a[part][key], b[part][key])] == []
    for x, y in zip(a['optimizer']['state'].values(), b['optimizer']['state'].values(), strict=True):
        assert all(same(x[key], y[key]) for key in x)


@pytest.mark.parametrize('workers', [0, 1])
def test_killed_at_any_iteration_a_run_ends_as_if_it_had_not_been(
    home: Path, whole: dict[str, Path], tmp_path: Path, workers: int
) -> None:
    """Both loops; the numbers of workers of the two runs differ too."""
    for name, words in (('iterations', 'Iter(train) [{}/6]'), ('epochs', 'Epoch(train) [{}][3/3]')):
        at = random.choice([3, 4, 5] if name == 'iterations' else [2])
        arguments = [home / f'{name}.py', '--work-dir', tmp_path / name]
        arguments += ['--cfg-options', f'train_dataloader.num_workers={workers}']
        killed = Job('train.py', *arguments, log=tmp_path / 'killed.log')
        killed.kill_after(words.format(at))
        output = run('train.py', *arguments[:3], '--resume', log=tmp_path / 'resumed.log')
        assert 'resumed epoch' in output and words.format(1).split('[3/3]')[0] not in output
        assert_same_end(whole[name], tmp_path / name)


def copied(source: Path, folder: Path, *iterations: int) -> Path:
    """A work dir with some checkpoints of another one, of which the last is ``last_checkpoint``."""
    folder.mkdir()
    for i in iterations:
        shutil.copy(source / f'iter_{i}.pth', folder)
        os.utime(folder / f'iter_{i}.pth', (i, i))
    (folder / 'last_checkpoint').write_text(str(folder / f'iter_{iterations[-1]}.pth'))
    return folder


def test_a_damaged_checkpoint_is_passed_over_and_never_silently(
    home: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    work = copied(whole['iterations'], tmp_path / 'work', 2, 4, 6)
    last = work / 'iter_6.pth'
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    arguments = [home / 'iterations.py', '--work-dir', work, '--resume']
    output = run('train.py', *arguments, last, log=tmp_path / 'named.log', code=2)
    assert f'train.py: error: --resume: {last}: it is cut off' in output

    output = run('train.py', *arguments, log=tmp_path / 'resumed.log')
    assert f'--resume: passed over {last}: it is cut off' in output
    assert 'Iter(train) [5/6]' in output and 'Iter(train) [4/6]' not in output
    assert_same_end(whole['iterations'], work)

    for path in work.glob('iter_*.pth'):
        path.write_bytes(path.read_bytes()[:1000])
    output = run('train.py', *arguments, log=tmp_path / 'none.log', code=2)
    assert 'no whole checkpoint is left' in output and 'Iter(train)' not in output


def test_killed_while_it_writes_a_checkpoint_the_one_before_stays(
    home: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    """With max_keep_ckpts=1, at which mmengine removes the old one before it writes the new one."""
    arguments = [home / 'iterations.py', '--work-dir', tmp_path / 'work', '--resume']
    arguments += ['--cfg-options', 'default_hooks.checkpoint.max_keep_ckpts=1']
    killed_by_the_second = """
import os, signal
calls = []
def fsync(descriptor):
    calls.append(descriptor)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = fsync
"""
    run('train.py', *arguments, log=tmp_path / 'killed.log', before=killed_by_the_second, code=-9)
    assert sorted(path.name for path in (tmp_path / 'work').glob('*iter_*')) == ['.iter_4.pth.part', 'iter_2.pth']
    output = run('train.py', *arguments, log=tmp_path / 'resumed.log')
    assert 'passed over' not in output and 'Iter(train) [3/6]' in output
    assert [path.name for path in (tmp_path / 'work').glob('*iter_*')] == ['iter_6.pth']
    assert_same_end(whole['iterations'], tmp_path / 'work')


def test_a_full_disk_stops_the_training_and_leaves_the_last_checkpoint(
    home: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    work = copied(whole['iterations'], tmp_path / 'work', 4)
    before = (work / 'iter_4.pth').read_bytes()
    full = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))'
    arguments = [home / 'iterations.py', '--work-dir', work, '--resume']
    output = run('train.py', *arguments, log=tmp_path / 'full.log', before=full, code=1)
    last = output.splitlines()[-1]
    assert last.startswith('train.py: error: no space is left') and f"'{work}/iter_6.pth'" in last
    assert last.endswith(f'--resume goes on from {work}/iter_4.pth')
    assert (work / 'iter_4.pth').read_bytes() == before
    assert not list(work.glob('*iter_6*'))


def test_an_interrupt_in_the_middle_of_saving_ends_in_one_line(home: Path, tmp_path: Path) -> None:
    """Where mmengine makes a ``SyntaxError`` of it; and what was not saved then is trained again."""
    before = """
import os, signal, traceback
import mmengine.config.config
from yapf.yapflib import yapf_api
def format_code(text, **_):
    if any(frame.name == 'save_checkpoint' for frame in traceback.extract_stack()):
        os.kill(os.getpid(), signal.SIGINT)
    return text, False
yapf_api.FormatCode = mmengine.config.config.FormatCode = format_code
"""
    arguments = [home / 'iterations.py', '--work-dir', tmp_path / 'work']
    options = ['--cfg-options', 'train_dataloader.num_workers=1']
    output = run('train.py', *arguments, *options, log=tmp_path / 'log', before=before, code=130)
    last = output.splitlines()[-1]
    assert last.startswith('train.py: interrupted; python ') and last.endswith('num_workers=1 --resume')
    assert 'Traceback' not in output and not list((tmp_path / 'work').glob('*iter_*'))


def test_what_is_wrong_with_the_data_is_said_at_the_start(home: Path, tmp_path: Path) -> None:
    config = home / 'iterations.py'
    option = '--cfg-options'
    root = 'train_dataloader.dataset.data_root'
    output = run('train.py', config, option, f'{root}=/nowhere', log=tmp_path / 'root.log', code=2)
    assert f'error: {root}: /nowhere: there is no such folder' in output
    assert output.splitlines()[-1].startswith('train.py: error: the data sets have 1 errors')
    broken = tmp_path / 'broken.json'
    broken.write_text('{"images": [}')
    key = 'train_dataloader.dataset.ann_file'
    output = run('train.py', config, option, f'{key}={broken}', log=tmp_path / 'file.log', code=2)
    assert f'{broken}, line 1, column 13: broken JSON' in output


def test_a_loss_that_is_not_finite_stops_the_training_by_name(home: Path, tmp_path: Path) -> None:
    arguments = [home / 'iterations.py', '--work-dir', tmp_path / 'work']
    output = run(
        'train.py', *arguments, '--cfg-options', 'optim_wrapper.optimizer.lr=1e30', log=tmp_path / 'log', code=1
    )
    last = output.splitlines()[-1]
    assert last.startswith('train.py: error: the loss is not finite at iteration 2, rank 0: loss_cls[0] = nan')
    assert 'loss_kd.crg.vertex = nan' in last
    assert "the student's features are not finite at strides [8, " in last
    assert "the teacher's features are finite on all levels" in last
    assert not list((tmp_path / 'work').glob('*.pth'))


SHORT = ['train_cfg.max_iters=2', 'default_hooks.checkpoint.interval=1']


# mmengine asks for a GPU before it trains with AMP, though all that it then calls works on CPUs too, in bfloat16.
AMP_ON_CPU = """
from mmengine.optim.optimizer import amp_optimizer_wrapper
amp_optimizer_wrapper.is_cuda_available = lambda: True
"""


@pytest.mark.parametrize(
    ('options', 'before'),
    [
        (['optim_wrapper.type=AmpOptimWrapper', 'optim_wrapper.dtype=bfloat16'], AMP_ON_CPU),
        (['model.student.backbone.norm_cfg.type=SyncBN'], ''),
        (['activation_checkpointing=backbone.layer1,backbone.layer2'], ''),
    ],
    ids=['bfloat16', 'SyncBN', 'activation checkpointing'],
)
def test_resumes_under(options: list[str], before: str, home: Path, tmp_path: Path) -> None:
    """Two iterations at once and one after the other are the same, with EMAHook, as everywhere here."""
    arguments = [home / 'iterations.py', '--cfg-options', *SHORT, *options, '--work-dir']
    output = run('train.py', *arguments, tmp_path / 'whole', log=tmp_path / 'whole.log', before=before)
    assert 'Iter(train) [2/2]' in output
    copied(tmp_path / 'whole', tmp_path / 'part', 1)
    run('train.py', *arguments, tmp_path / 'part', '--resume', log=tmp_path / 'part.log', before=before)
    assert_same_end(tmp_path / 'whole', tmp_path / 'part')


def test_a_run_stopped_in_the_middle_of_a_gradient_accumulation(home: Path, tmp_path: Path) -> None:
    arguments = [
        home / 'iterations.py',
        '--cfg-options',
        'train_cfg.max_iters=4',
        'optim_wrapper.accumulative_counts=2',
    ]
    arguments += ['default_hooks.checkpoint.interval=1', '--work-dir']
    run('train.py', *arguments, tmp_path / 'whole', log=tmp_path / 'whole.log')
    copied(tmp_path / 'whole', tmp_path / 'part', 3)
    assert 'gradients' in saved(tmp_path / 'part') and 'gradients' not in saved(tmp_path / 'whole')
    run('train.py', *arguments, tmp_path / 'part', '--resume', log=tmp_path / 'part.log')
    assert_same_end(tmp_path / 'whole', tmp_path / 'part')


def test_compiles(home: Path, tmp_path: Path) -> None:
    """One loss and one iteration: tracing all of mmdet's code is what takes the time."""
    config = tmp_path / 'compiled.py'
    config.write_text(
        f"""_base_ = {str(home / 'iterations.py')!r}
model = dict(losses=dict(_delete_=True, crg=dict(type='mmkd_graph.CRGLoss')))
custom_hooks = []
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.1))
train_cfg = dict(max_iters=1)
"""
    )
    arguments = [config, '--work-dir', tmp_path / 'plain']
    run('train.py', *arguments, log=tmp_path / 'plain.log')
    arguments = [config, '--work-dir', tmp_path / 'compiled', '--cfg-options', 'compile.backend=eager']
    output = run('train.py', *arguments, log=tmp_path / 'compiled.log')
    assert 'Model has been "compiled"' in output
    one, two = saved(tmp_path / 'plain')['state_dict'], saved(tmp_path / 'compiled')['state_dict']
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=1e-5, rtol=1e-4, msg=key)


def test_a_batch_without_boxes_reaches_every_parameter(home: Path, batch: dict[str, Any]) -> None:
    """As DDP with find_unused_parameters=False asks for."""
    model = MMDET_MODELS.build(Config.fromfile(home / 'iterations.py').model)
    model.init_weights()
    for sample in batch['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
    total, values = model.parse_losses(losses)
    total.backward()
    assert all(torch.isfinite(value).all() for value in values.values())
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


# ---------------------------------------------------------------- several processes


def test_two_processes_killed_together_end_as_if_they_had_not_been(home: Path, tmp_path: Path) -> None:
    arguments = [home / 'iterations.py', '--work-dir']
    for job in together(2, 'train.py', *arguments, tmp_path / 'whole', log=tmp_path / 'whole.log'):
        job.end()
    killed = together(2, 'train.py', *arguments, tmp_path / 'part', log=tmp_path / 'killed.log')
    killed[0].kill_after('Iter(train) [3/6]')
    killed[1].process.kill()
    killed[1].process.join()
    for job in together(2, 'train.py', *arguments, tmp_path / 'part', '--resume', log=tmp_path / 'resumed.log'):
        output = job.end()
    assert 'GPU number: 2' in (tmp_path / 'resumed.log-0').read_text(), output
    assert_same_end(tmp_path / 'whole', tmp_path / 'part')


def test_two_processes_that_are_ended_say_one_line_together(home: Path, tmp_path: Path) -> None:
    """As torchrun ends them when its Ctrl-C is pressed, and in the order in which they notice each other's end."""
    options = ['--cfg-options', 'train_cfg.max_iters=10000', 'train_dataloader.num_workers=1']
    jobs = together(2, 'train.py', home / 'iterations.py', '--work-dir', tmp_path, *options, log=tmp_path / 'log')
    jobs[0].wait_for('Iter(train)')
    os.kill(jobs[0].process.pid, signal.SIGINT)
    os.kill(jobs[1].process.pid, signal.SIGTERM)
    outputs = [job.end(code) for job, code in zip(jobs, (130, 143), strict=True)]
    assert outputs[0].splitlines()[-1] == 'train.py: interrupted; the same command with --resume goes on'
    assert not any('Traceback' in output for output in outputs) and 'train.py: ' not in outputs[1]


def test_four_processes_stop_together(home: Path, tmp_path: Path) -> None:
    """A loss that is infinite on one of them; it reaches the parameters of none."""
    broken = """
import os
from mmkd_graph.distillers import GraphDistiller
loss, calls = GraphDistiller.loss, []
def infinite(self, *args):
    losses = loss(self, *args)
    calls.append(0)
    if len(calls) == 2 and os.environ['RANK'] == '2':
        losses['loss_bbox'][1] = losses['loss_bbox'][1] + float('inf')
    return losses
GraphDistiller.loss = infinite
import torch
from mmengine.runner import Runner
train = Runner.train
def end(self):
    try:
        return train(self)
    finally:
        parameters = {name: p.detach() for name, p in self.model.module.named_parameters()}
        torch.save(parameters, os.environ['STATE'] + os.environ['RANK'])
Runner.train = end
"""
    arguments = [home / 'iterations.py', '--work-dir', tmp_path / 'work', '--cfg-options', 'train_cfg.max_iters=3']
    jobs = together(4, 'train.py', *arguments, log=tmp_path / 'log', before=broken, STATE=str(tmp_path / 'state'))
    outputs = [job.end(code=1) for job in jobs]
    words = 'the loss is not finite at iteration 2, rank {}: {}'
    assert words.format(2, 'loss_bbox[1] = inf') in outputs[2]
    assert all(words.format(rank, 'on another rank') in outputs[rank] for rank in (0, 1, 3))
    states = [torch.load(tmp_path / f'state{rank}') for rank in range(4)]
    assert all(torch.isfinite(value).all() for value in states[0].values())
    assert [key for key in states[0] for state in states[1:] if not torch.equal(states[0][key], state[key])] == []


def test_weights_that_do_not_fit_end_every_process(home: Path, tmp_path: Path) -> None:
    other = save_weights(tiny_retinanet(base_channels=16, fpn_channels=32, num_classes=2), tmp_path / 'other.pth')
    arguments = [home / 'iterations.py', '--work-dir', tmp_path / 'work', '--cfg-options']
    arguments.append(f'model.teacher.checkpoint={other}')
    for job in together(2, 'train.py', *arguments, log=tmp_path / 'log'):
        assert 'bbox_head.retina_cls.weight: (2, 32' in job.end(code=2)


def test_sharded_training_runs_and_saves_a_shard_per_process(home: Path, tmp_path: Path) -> None:
    """What works of FSDP on CPUs; docs/robustness.md says what does not."""
    config = tmp_path / 'sharded.py'
    config.write_text(
        f"""_base_ = {str(home / 'iterations.py')!r}
runner_type = 'FlexibleRunner'
strategy = dict(
    type='FSDPStrategy',
    model_wrapper=dict(type='MMFullyShardedDataParallel', device_id='cpu', use_orig_params=True))
custom_hooks = []
train_cfg = dict(max_iters=1)
"""
    )
    jobs = together(2, 'train.py', config, '--work-dir', tmp_path / 'work', log=tmp_path / 'log')
    outputs = [job.end() for job in jobs]
    assert 'Iter(train) [1/1]' in outputs[0]
    assert sorted(path.name for path in (tmp_path / 'work' / 'iter_1.pth').iterdir()) == ['rank0.pth', 'rank1.pth']
