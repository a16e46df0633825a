"""``tools/benchmark/coco/`` on a real Slurm: a suite is submitted, one job is killed, and the table is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import SHAPES_RUN, import_tool
from mmengine.registry import init_default_scope
from on_slurm import PAUSE, job_field, run, wait_for_the_end, wait_until

from mmkd_graph.datasets import CLASSES, generate_shapes
from mmkd_graph.testing import tiny_retinanet

CONFIG = (
    SHAPES_RUN
    + """
model = {model!r}
train_cfg = dict(type='IterBasedTrainLoop', max_iters={iterations})
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3))
"""
)
PAUSING = "custom_imports = dict(imports=['pause'])\ncustom_hooks = [dict(type='Pause', after=7)]\n"


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite of two small detectors and one method; the student alone stands still after seven iterations."""
    init_default_scope('mmdet')
    generate_shapes(tmp_path / 'data', num_train=6, num_val=1, num_test=5)
    common = dict(data=f'{tmp_path / "data"}/', classes=tuple(CLASSES))
    teacher = tiny_retinanet(base_channels=16, fpn_channels=32, num_classes=len(CLASSES))
    (tmp_path / 'teacher.py').write_text(CONFIG.format(model=teacher, iterations=3, **common))
    student = CONFIG.format(model=tiny_retinanet(num_classes=len(CLASSES)), iterations=9, **common)
    (tmp_path / 'student.py').write_text(student + PAUSING)
    (tmp_path / 'pause.py').write_text(PAUSE)
    path = tmp_path / 'tiny.py'
    path.write_text(
        f"teacher = '{tmp_path}/teacher.py'\nstudent = '{tmp_path}/student.py'\nseeds = [0]\n"
        "methods = dict(crg=dict(type='mmkd_graph.CRGLoss'))\n"
        "reported = dict(crg=[dict(ap=38.0, setting='2x', source='a paper')])\n"
    )
    return path


@pytest.mark.timeout(1800)
def test_a_suite_is_run_to_its_table_over_a_killed_job(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv('PYTHONPATH', str(tmp_path), prepend=':')
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, value in dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='').items():
        monkeypatch.setenv(name, value)
    submit, collect = import_tool('benchmark/coco/submit'), import_tool('benchmark/coco/collect')
    folder = tmp_path / 'work' / 'tiny'
    (folder / 'crg-0').mkdir(parents=True)
    (folder / 'crg-0' / 'paused-0').touch()  # it inherits the student's hook
    where = [str(suite), '--work-dir', str(tmp_path / 'work')]
    asked = [*where, '--gpus', '1', '--gpus-per-node', '0', '--cpus-per-task', '1', '--partition', 'test']

    assert submit.main(asked) == 0
    jobs = {name: (folder / f'{name}-0' / 'job').read_text() for name in ('teacher', 'student', 'crg')}
    log = folder / 'student-0' / 'slurm.log'
    wait_until((folder / 'student-0' / 'paused-0').exists, log, 600)
    assert job_field(jobs['crg'], 'JobState') == 'PENDING'
    capsys.readouterr()
    assert submit.main(asked) == 0
    assert f'tiny-crg-0: job {jobs["crg"]} is PENDING\n' in capsys.readouterr().out, 'submitted twice'
    assert collect.main(where) == 0
    assert re.search(r'\| student \|.* at [67] of 9 \|', capsys.readouterr().out)

    run('scancel', '--signal=KILL', f'{jobs["student"]}.0')
    ends = []
    for name, job in jobs.items():
        output = folder / f'{name}-0' / 'slurm.log'
        assert wait_for_the_end(job, output, 600) == 'COMPLETED', output.read_text()[-3000:]
        assert job_field(job, 'Restarts') == str(int(name == 'student'))
        ends.append(job_field(job, 'EndTime'))
    assert max(ends[:2]) <= job_field(jobs['crg'], 'StartTime')
    assert re.findall(r'resumed epoch: \d+, iter: (\d+)', log.read_text()) == ['6']

    assert collect.main(where) == 0
    table = capsys.readouterr().out
    rows = {cells[1].strip(): cells[2:-1] for line in table.splitlines() if len(cells := line.split('|')) > 2}
    assert all(re.fullmatch(r' \d+\.\d ', rows[name][0]) for name in jobs), table
    assert [rows[name][7].strip() for name in jobs] == ['3', '9', '9']
    assert re.fullmatch(r' [+-]\d+\.\d ', rows['crg'][2]) and '38.0 (2x) [1]' in rows['crg'][3]
    assert float(rows['crg'][4]) > 0, 'no time of an iteration'
    assert submit.main(asked) == 0
    assert capsys.readouterr().out.count(': finished\n') == 3
