"""Training, testing and requeueing on a real Slurm, which ``make test-slurm`` sets up around this file."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import SHAPES_RUN
from mmengine.registry import init_default_scope
from on_slurm import PAUSE, ROOT, job_field, run, wait_for_the_end, wait_until

from mmkd_graph.datasets import CLASSES, generate_shapes
from mmkd_graph.testing import save_weights, tiny_retinanet

CLUSTER = ROOT / 'tests' / 'slurm' / 'cluster.sh'

CONFIG = (
    SHAPES_RUN
    + """
model = dict(
    type='mmkd_graph.GraphDistiller',
    student={student!r},
    teacher=dict(config={teacher!r}, checkpoint={weights!r}),
    losses=dict(crg=dict(type='mmkd_graph.CRGLoss')))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=12)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3))
custom_hooks = [dict(type='mmkd_graph.StudentExportHook'), dict(type='EMAHook')]
"""
)


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=False)['state_dict']


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, teacher and the config ``distilled.py``."""
    folder = tmp_path_factory.mktemp('slurm')
    init_default_scope('mmdet')
    generate_shapes(folder / 'data', num_train=6, num_val=1, num_test=5)
    teacher = tiny_retinanet(base_channels=16, fpn_channels=32, num_classes=len(CLASSES))
    config = CONFIG.format(
        student=tiny_retinanet(num_classes=len(CLASSES)),
        teacher=teacher,
        weights=save_weights(teacher, folder / 'teacher.pth'),
        data=f'{folder / "data"}/',
        classes=tuple(CLASSES),
    )
    (folder / 'distilled.py').write_text(config)
    return folder


@pytest.fixture(scope='module')
def trained(folder: Path) -> tuple[Path, str]:
    """Work dir and output of an undisturbed training by ``slurm_train.sh``."""
    train = ROOT / 'tools' / 'slurm_train.sh'
    return folder / 'whole', run(train, 'test', 'whole', folder / 'distilled.py', folder / 'whole')


def test_two_tasks_train_together(trained: tuple[Path, str]) -> None:
    work_dir, output = trained
    assert 'Distributed training: True' in output and 'GPU number: 2' in output
    assert output.count('Iter(train) [12/12]') == 1, 'one task alone should print'
    assert any(name.startswith('distill.') for name in weights(work_dir / 'iter_12.pth'))
    assert (work_dir / 'student.pth').exists()


def test_two_tasks_test_together(folder: Path, trained: tuple[Path, str]) -> None:
    checkpoint, predictions = trained[0] / 'iter_12.pth', folder / 'predictions.pkl'
    options = ['--work-dir', folder / 'test', '--out', predictions]
    output = run(ROOT / 'tools' / 'slurm_test.sh', 'test', 'test', folder / 'distilled.py', checkpoint, *options)
    assert 'GPU number: 2' in output
    assert re.search(r'Iter\(test\) \[3/3\]', output), 'five images are three for one task and two for the other'
    assert 'coco/bbox_mAP: ' in output
    assert len(pickle.loads(predictions.read_bytes())) == 5


def submit(config: Path, work_dir: Path, **environment: str) -> tuple[str, Path]:
    """Submit the batch script of docs/slurm.md for two tasks on CPUs: the job's id and its log."""
    (script,) = re.findall(r'```bash\n(#!.+?)```', (ROOT / 'docs' / 'slurm.md').read_text(), flags=re.DOTALL)
    replaced = {
        'config=configs/crg/retinanet_r50_fpn_crg-r101_1x_coco.py': f'config={config}',
        'work_dir=work_dirs/crg\n': f'work_dir={work_dir}\n',
        'slurm_train.sh gpu ': 'slurm_train.sh test ',
    }
    for old, new in replaced.items():
        assert script.count(old) == 1, old
        script = script.replace(old, new)
    path, log = work_dir.with_suffix('.sh'), work_dir.with_suffix('.log')
    path.write_text(script)
    here = ['--partition=test', '--ntasks=2', '--ntasks-per-node=2', '--gres=none', '--cpus-per-task=1', '--time=10']
    return run('sbatch', '--parsable', *here, f'--output={log}', path, **environment).strip(), log


def test_a_killed_job_resumes_when_requeued_and_ends_where_the_undisturbed_one_ended(
    folder: Path, trained: tuple[Path, str]
) -> None:
    (folder / 'pause.py').write_text(PAUSE)
    config, work_dir = folder / 'pausing.py', folder / 'killed'
    hooks = "custom_hooks = [*_base_.custom_hooks, dict(type='Pause', after=7)]"
    config.write_text(f"_base_ = './distilled.py'\ncustom_imports = dict(imports=['pause'])\n{hooks}\n")
    job, log = submit(config, work_dir, PYTHONPATH=str(folder))
    wait_until(lambda: all((work_dir / f'paused-{rank}').exists() for rank in range(2)), log)
    run('scancel', '--signal=KILL', '--full', job)
    assert wait_for_the_end(job, log) == 'CANCELLED', 'Slurm takes this signal for the wish of the user'
    run('scontrol', 'requeue', job)
    assert wait_for_the_end(job, log) == 'COMPLETED', log.read_text()[-3000:]

    assert job_field(job, 'Restarts') == '1'
    output = log.read_text()
    assert re.findall(r'resumed epoch: \d+, iter: (\d+)', output) == ['6']
    assert re.findall(r'Iter\(train\) \[ *(\d+)/12\]', output) == list(map(str, [*range(1, 8), *range(7, 13)]))
    whole, killed = (weights(path / 'iter_12.pth') for path in (trained[0], work_dir))
    assert list(whole) == list(killed)
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_the_script_requeues_its_job_when_a_task_is_killed_and_before_the_time_limit(tmp_path: Path) -> None:
    """With a program in the place of Python that saves at each start and ends well at the third."""
    work_dir, program = tmp_path / 'job', tmp_path / 'program'
    work_dir.mkdir()
    saved = work_dir / 'last_checkpoint'
    program.write_text(
        '#!/usr/bin/env bash\n'
        f'(( SLURM_PROCID )) || echo "iter_${{SLURM_RESTART_COUNT:-0}}" > {saved}\n'
        '(( ${SLURM_RESTART_COUNT:-0} == 2 )) || sleep 300\n'
    )
    program.chmod(0o755)
    job, log = submit(tmp_path / 'config.py', work_dir, PYTHON=str(program))
    # the latter is what `--signal=B:USR1@60` sends
    for start, signal in enumerate((['--signal=KILL', f'{job}.0'], ['--signal=USR1', '--batch', job])):
        wait_until(lambda start=start: saved.exists() and saved.read_text() == f'iter_{start}\n', log)
        run('scancel', *signal)
    assert wait_for_the_end(job, log) == 'COMPLETED', log.read_text()
    assert job_field(job, 'Restarts') == '2'


def test_a_start_that_saves_nothing_is_not_repeated(tmp_path: Path) -> None:
    job, log = submit(tmp_path / 'config.py', tmp_path / 'job', PYTHON='false')
    assert wait_for_the_end(job, log) == 'FAILED'
    assert job_field(job, 'Restarts') == '0'
    assert 'not started again' in log.read_text()


def test_a_cluster_leaves_nothing_behind() -> None:
    """Neither daemons nor the tasks of a running job, when the command in it fails."""
    command = 'echo $SLURM_CONF; sbatch --output=/dev/null --wrap="srun sleep 200"; sleep 1; exit 3'
    done = subprocess.run([CLUSTER, 'bash', '-c', command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr
    settings = done.stdout.splitlines()[0]
    assert settings != os.environ['SLURM_CONF'] and not Path(settings).parent.exists()
    for process in Path('/proc').glob('[0-9]*/environ'):
        try:
            environment = process.read_bytes()
        except OSError:  # it has ended, or is another user's
            continue
        assert f'SLURM_CONF={settings}'.encode() not in environment, process
