"""Suites as jobs, without Slurm: fake commands of it, and the job's script with fake steps."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from conftest import TOOLS, import_tool

from mmkd_graph import losses
from mmkd_graph.engine.collecting import KIT
from mmkd_graph.engine.slurm import SCRIPT
from mmkd_graph.engine.suites import Suite
from mmkd_graph.losses import HeadLoss

SUITE = """
teacher = {folder!r} + '/detector.py'
student = teacher
methods = dict(crg=dict(type='CRGLoss'), pkd=dict(losses=dict(pkd=dict(type='PKDLoss')), strides=(8, 16)))
seeds = [0]
"""
SBATCH = """#!/usr/bin/env bash
printf '%s\\n' "$GPUS $GPUS_PER_NODE $*" >> {folder}/submitted
(( $(wc -l < {folder}/submitted) < ${{FULL:-99}} )) || {{ echo 'sbatch: error: no such partition' >&2; exit 1; }}
wc -l < {folder}/submitted
"""


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite, and a Slurm on PATH that counts jobs and has those of the file ``queue`` in its queue."""
    (tmp_path / 'detector.py').write_text("model = dict(type='RetinaNet')\nauto_scale_lr = dict(base_batch_size=16)\n")
    (tmp_path / 'queue').touch()
    for name, text in (('sbatch', SBATCH.format(folder=tmp_path)), ('squeue', f'#!/bin/sh\ncat {tmp_path}/queue\n')):
        (tmp_path / 'bin').mkdir(exist_ok=True)
        (tmp_path / 'bin' / name).write_text(text)
        (tmp_path / 'bin' / name).chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'), prepend=os.pathsep)
    path = tmp_path / 'tiny.py'
    path.write_text(SUITE.format(folder=str(tmp_path)))
    return path


@pytest.fixture(scope='module')
def tool():
    return import_tool('benchmark/coco/submit')


@pytest.fixture
def submit(tool, suite: Path, tmp_path: Path):
    """``submit.py`` on the suite, with more arguments."""
    return lambda *more: tool.main([str(suite), '--work-dir', str(tmp_path / 'work'), *more])


def submitted(folder: Path) -> dict[str, str]:
    """Command lines of the jobs by their names."""
    lines = (folder / 'submitted').read_text().splitlines()
    return {line.partition('--job-name=tiny-')[2].split()[0]: line for line in lines}


def test_methods_wait_for_their_teacher_and_the_student_of_their_seed(submit, tmp_path: Path) -> None:
    assert submit('--seeds', '0', '1', '--gpus', '4', '--sbatch-args=--account=me --exclude="a b"') == 0
    jobs = submitted(tmp_path)
    assert list(jobs) == ['teacher-0', 'student-0', 'student-1', 'crg-0', 'crg-1', 'pkd-0', 'pkd-1']
    waits = {name: line.partition('--dependency=')[2].split(' ')[0] for name, line in jobs.items()}
    assert waits['teacher-0'] == waits['student-1'] == ''
    assert waits['crg-0'] == waits['pkd-0'] == 'afterok:1:2' and waits['crg-1'] == waits['pkd-1'] == 'afterok:1:3'
    assert all(line.startswith('4 4 ') and '--gres=gpu:4' in line and '--exclude=a b' in line for line in jobs.values())
    work = tmp_path / 'work' / 'tiny'
    config = (work / 'pkd-1' / 'configs' / 'train' / 'pkd.py').read_text()
    assert f"checkpoint='{work}/teacher-0/weights.pth'" in config.replace('\n', '').replace('        ', '')
    assert 'seed=1' in config and 'enable=True' in config and 'strides=' in config


def test_what_is_finished_or_in_the_queue_is_not_submitted_again(submit, tmp_path: Path, capsys) -> None:
    assert submit() == 0
    (tmp_path / 'queue').write_text('2 RUNNING\n4 PENDING\n')
    (tmp_path / 'work' / 'tiny' / 'teacher-0' / 'tested').touch()
    capsys.readouterr()
    assert submit('--dry-run') == 0
    assert 'tiny-crg-0: would be submitted after 2\n' in capsys.readouterr().out and len(submitted(tmp_path)) == 4
    assert submit() == 0
    assert capsys.readouterr().out.splitlines() == [
        'tiny-teacher-0: finished',
        'tiny-student-0: job 2 is RUNNING',
        'tiny-crg-0: submitted as job 5 after 2',
        'tiny-pkd-0: job 4 is PENDING',
    ]


def test_a_published_teacher_is_only_tested(submit, suite: Path, tmp_path: Path) -> None:
    suite.write_text(f"{suite.read_text()}weights = 'https://teacher.pth'\n")
    assert submit('--methods', 'crg', '--at-once') == 0
    jobs = submitted(tmp_path)
    assert jobs['teacher-0'].endswith('/detector.py https://teacher.pth')
    assert jobs['student-0'].endswith('/detector.py') and '--dependency=afterok:1 ' in jobs['crg-0']
    assert "'https://teacher.pth'" in (tmp_path / 'work/tiny/crg-0/configs/train/crg.py').read_text()


@pytest.mark.parametrize(
    ('line', 'more', 'words'),
    [
        ("tune = dict(key='type', values=['a', 'b'])", [], 'tiny: tune; accepted: suites without it'),
        ('pretrain = student', [], 'tiny: pretrain; accepted: suites without it'),
        ('', ['--methods', 'crg', 'cgr'], '--methods cgr; accepted: crg, pkd'),
        ('', ['--gpus', '2', '--gpus-per-node', '4'], '--gpus-per-node 4; accepted: at most --gpus, 2'),
        ('', ['--cfg-options', 'randomness.seed=1'], 'accepted: --seeds'),
        ('reported = dict(crg=[dict(ap=1)])', [], 'accepted: a list of dict(ap=…, setting=…, source=…)'),
        ('reported = dict(cgr=[])', [], 'reported.cgr; accepted: crg, pkd, student, teacher'),
        ("teacher = 'mmdet::nowhere/none.py'", [], "teacher='mmdet::nowhere/none.py': no such config"),
        ("methods['x'] = dict(losses=dict(), student=1)", [], 'methods.x='),
    ],
)
def test_what_cannot_be_submitted_is_one_line(
    submit, suite: Path, line: str, more: list[str], words: str, capsys: pytest.CaptureFixture
) -> None:
    suite.write_text(f'{suite.read_text()}{line}\n')
    with pytest.raises(SystemExit):
        submit(*more)
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_a_job_that_is_refused_ends_it_and_the_same_command_goes_on(
    submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv('FULL', '3')
    assert submit() == 1
    assert capsys.readouterr().err.strip().endswith('sbatch: error: no such partition')
    (tmp_path / 'queue').write_text('1 PENDING\n2 PENDING\n')
    monkeypatch.setenv('FULL', '99')
    assert submit() == 0
    assert 'tiny-crg-0: submitted as job 4 after 1 2\n' in capsys.readouterr().out


def test_a_run_of_another_config_is_not_continued(submit, capsys: pytest.CaptureFixture) -> None:
    assert submit() == 0
    assert submit('--cfg-options', 'x=1') == 1
    assert 'teacher-0 holds a run of another version' in capsys.readouterr().err


def test_without_slurm_only_a_dry_run_works(submit, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv('PATH', '/nowhere')
    assert submit('--dry-run') == 0
    assert submit() == 1
    assert 'there is no squeue here' in capsys.readouterr().err.splitlines()[-1]


def test_the_kit_has_every_method_that_fits() -> None:
    every = {name.removesuffix('Loss').lower(): loss for name, loss in losses.LOSSES.items()}
    heads = {name for name, loss in every.items() if issubclass(loss, HeadLoss)}
    for path, missing in zip(KIT, ({'ld'}, set(), heads), strict=True):
        assert {*Suite.from_file(TOOLS.parent / path).methods} == every.keys() - missing, path


# Steps of a job: they do what the environment says and leave checkpoints as trainings do.
TRAIN = """
echo "train $3 $4 $5" >> "$4/calls"
[[ ! $SAVES ]] || { touch "$4/$SAVES"; echo "$4/$SAVES" > "$4/last_checkpoint"; }
exit ${TRAIN_CODE:-0}
"""
TEST = 'echo "test $3 $4" >> "${6%/test}/calls"; exit ${TEST_CODE:-0}'


@pytest.fixture
def job(tmp_path: Path):
    """Run ``job.sh`` in a folder: its exit code; ``scontrol`` leaves a file ``requeued``."""
    tools, work = tmp_path / 'tools', tmp_path / 'run'
    for folder in (tools, work, tmp_path / 'bin'):
        folder.mkdir()
    (tools / 'slurm_train.sh').write_text(TRAIN)
    (tools / 'slurm_test.sh').write_text(TEST)
    (tmp_path / 'bin' / 'scontrol').write_text(f'#!/bin/sh\necho "$@" > {work}/requeued\n')
    (tmp_path / 'bin' / 'scontrol').chmod(0o755)

    def start(*weights: str, **environment: str) -> int:
        path = f'{tmp_path}/bin:{os.environ["PATH"]}'
        slurm = dict(SLURM_JOB_ID='7', SLURM_JOB_PARTITION='gpu', SLURM_JOB_NAME='x', PATH=path, SAVES='')
        command = ['bash', SCRIPT, tools, work, tmp_path / 'config.py', *weights]
        return subprocess.run(command, env={**os.environ, **slurm, **environment}, capture_output=True).returncode

    return start


def test_a_job_trains_and_tests_its_last_checkpoint_once(job, tmp_path: Path) -> None:
    work, config = tmp_path / 'run', tmp_path / 'config.py'
    assert job(SAVES='epoch_1.pth') == 0 and job() == 0
    calls = (work / 'calls').read_text().splitlines()
    assert calls == [f'train {config} {work} --resume', f'test {config} {work}/weights.pth']
    assert os.readlink(work / 'weights.pth') == 'epoch_1.pth' and not (work / 'requeued').exists()


def test_a_job_is_requeued_if_it_has_saved_something(job, tmp_path: Path) -> None:
    work = tmp_path / 'run'
    assert job(SAVES='', TRAIN_CODE='1') == 1, 'the same would happen again'
    assert not (work / 'requeued').exists()
    assert job(SAVES='epoch_1.pth', TRAIN_CODE='137') == 0
    assert (work / 'requeued').read_text() == 'requeue 7\n' and not (work / 'trained').exists()
    assert job(SAVES='epoch_2.pth', TEST_CODE='1') == 0, 'the test is repeated'
    assert (work / 'trained').exists() and not (work / 'tested').exists()
    assert job(TEST_CODE='1') == 1
    assert job() == 0 and (work / 'tested').exists()
    assert (work / 'calls').read_text().count('train') == 3


def test_weights_that_are_given_are_only_tested(job, tmp_path: Path) -> None:
    assert job('https://teacher.pth') == 0
    assert (tmp_path / 'run' / 'calls').read_text() == f'test {tmp_path}/config.py https://teacher.pth\n'
