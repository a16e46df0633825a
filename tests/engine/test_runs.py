from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mmengine.config import Config

from mmkd_graph.engine import runs
from mmkd_graph.engine.runs import Run, RunFailed, interruptible


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / 'config.py'
    path.write_text(
        "val_dataloader = dict(dataset=dict(ann_file='val.txt'))\nval_evaluator = dict(type='VOCMetric')\nx = 1\n"
    )
    return path


@pytest.mark.parametrize(
    ('line', 'wanted'),
    [
        (
            'mmengine - INFO - Iter(train) [ 50/1000]  base_lr: 5.0e-04 lr: 5.0e-04  eta: 0:21:23  time: 1.35',
            (50, 1000, '0:21:23'),
        ),
        (
            'mmengine - INFO - Epoch(train)  [3][ 10/31]  base_lr: 1.0e-03 lr: 1.0e-03  eta: 1 day, 2:03:04  time: 0.5',
            (10, 31, '1 day, 2:03:04'),
        ),
    ],
)
def test_progress_is_read_from_mmengines_log(line: str, wanted: tuple) -> None:
    match = runs._PROGRESS.search(line)
    assert (int(match['done']), int(match['total']), match['eta']) == wanted


def test_a_finished_run_is_not_trained_again_and_another_config_is_refused(config, tmp_path, monkeypatch):
    calls = []

    def call(self, script, arguments, *rest):
        calls.append(script)

    monkeypatch.setattr(Run, '_call', call)
    run = Run(str(config), tmp_path / 'work', {'x': 2})
    run.train()
    run.train()
    assert calls == ['train.py']
    with pytest.raises(RunFailed, match='another version'):
        Run(str(config), tmp_path / 'work', {'x': 3}).train()
    config.write_text(config.read_text().replace('val.txt', 'other.txt'))
    with pytest.raises(RunFailed, match='another version'):
        run.train()


def test_validation_annotations_take_the_place_of_the_tests(config, tmp_path) -> None:
    options = Run(str(config), tmp_path)._val_as_test()
    assert options == {'test_dataloader.dataset.ann_file': 'val.txt'}


def test_a_failed_process_is_named_with_its_log(tmp_path: Path) -> None:
    (tmp_path / 'broken.py').write_text('x = 1\n')  # no model in it
    run = Run(str(tmp_path / 'broken.py'), tmp_path / 'work')
    with pytest.raises(RunFailed, match=r'(?s)train\.py of .*broken\.py ended with exit code 2.*train\.log.*no model'):
        run.train()
    assert not (tmp_path / 'work' / 'trained').exists()


@pytest.fixture
def fake_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of ``tools/``, whose ``train.py`` writes down how it was called, and waits if it is to."""
    folder = tmp_path / 'tools'
    folder.mkdir()
    (folder / 'train.py').write_text(
        """import json, os, sys, time
work_dir = sys.argv[sys.argv.index('--work-dir') + 1]
part = os.path.join(work_dir, 'part')
open(part, 'w').write(json.dumps(dict(argv=sys.argv, pid=os.getpid())))
os.rename(part, os.path.join(work_dir, 'called.json'))
time.sleep(float(os.environ.get('SLEEP', 0)))
"""
    )
    monkeypatch.setattr(runs, 'TOOLS', folder)
    return folder


def test_paths_with_blanks_and_commas_reach_the_config(fake_tools: Path, tmp_path: Path) -> None:
    config = tmp_path / 'a, config.py'
    config.write_text("data = dict(root='x')\nhooks = [dict(type='A'), dict(type='B')]\n")
    work_dir = tmp_path / 'my project, 2' / 'demo'
    root = f'{work_dir}/shapes (1)/'
    Run(str(config), work_dir, {'data.root': root, 'hooks.1.scale': (8, 4), 'data.none': None}).train()
    argv = json.loads((work_dir / 'called.json').read_text())['argv']
    given = Config.fromfile(argv[1])
    assert Path(argv[1]).name == config.name, 'mmengine names the experiment after it'
    assert given.data == dict(root=root, none=None)
    assert given.hooks == [dict(type='A'), dict(type='B', scale=(8, 4))]
    assert argv[2:] == ['--work-dir', str(work_dir), '--resume']


@pytest.mark.parametrize('threads', [0, 2])
def test_a_terminated_driver_takes_its_trainings_with_it(
    threads: int, fake_tools: Path, config: Path, tmp_path: Path
) -> None:
    """From the main thread, as the demonstration has it, or from others, as benchmarks do."""
    started = [Run(str(config), tmp_path / f'work{i}', environment=dict(SLEEP='60')) for i in range(3)]

    def drive() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.stderr = (tmp_path / 'told').open('w')
        with interruptible():
            if not threads:
                started[0].train()
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(Run.train, started))

    driver = multiprocessing.get_context('fork').Process(target=drive)
    driver.start()
    called = [run.work_dir / 'called.json' for run in started[: max(threads, 1)]]
    deadline = time.monotonic() + 30
    while not all(path.exists() for path in called):
        assert time.monotonic() < deadline and driver.is_alive()
        time.sleep(0.01)
    os.kill(driver.pid, signal.SIGTERM)
    driver.join(30)
    assert driver.exitcode == 143
    assert 'terminated; the same command goes on' in (tmp_path / 'told').read_text()
    for path in called:
        with pytest.raises(ProcessLookupError):
            os.kill(json.loads(path.read_text())['pid'], 0)
    assert not (started[2].work_dir / 'trained').exists()
