from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmkd_graph.engine import runs
from mmkd_graph.engine.children import interruptible
from mmkd_graph.engine.runs import Boxes, Given, Run, RunFailed
from mmkd_graph.engine.scores import Score, score
from mmkd_graph.hooks.training_summary_hook import TITLE


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


COCO = dict(type='CocoMetric', ann_file='val.json')


@pytest.mark.parametrize('evaluator', [COCO, [dict(type='VOCMetric'), COCO], dict(type='Evaluator', metrics=[COCO])])
def test_validation_data_take_the_place_of_the_tests_and_boxes_are_kept(
    evaluator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the two differ in; settings on top of the config count."""
    path = tmp_path / 'config.py'
    path.write_text(
        "val_dataloader = dict(dataset=dict(type='CocoDataset', ann_file='val.json', metainfo=dict(classes=('a',))))\n"
        "test_dataloader = dict(batch_size=3, dataset=dict(type='Other', data_root='x/'))\n"
        f"val_evaluator = {evaluator!r}\ntest_evaluator = dict(type='VOCMetric', metric='mAP')\n"
    )
    found = []

    def call(self: Run, script: str, arguments: list, options: dict) -> None:
        found.append(runs.resolved(self.config, options))
        folder = Path(arguments[-1], 'now')
        folder.mkdir(parents=True)
        (folder / '1.json').write_text('{"test/coco/bbox_mAP": 0.5, "time": 1}')

    monkeypatch.setattr(Run, '_call', call)
    run = Given(str(path), tmp_path / 'run', {'val_dataloader.num_workers': 1}, weights='https://x/y.pth')
    assert run.score('val') == Score('coco/bbox_mAP', 50.0)
    (config,) = found
    assert config.test_dataloader == dict(config.val_dataloader) and config.test_dataloader.num_workers == 1
    kept = f'{tmp_path}/run/predictions-val'
    assert runs.coco_metric(config.test_evaluator).outfile_prefix == kept
    assert config.test_cfg == dict(type='TestLoop')
    assert run.boxes('val') == Boxes('val.json', Path(f'{kept}.bbox.json'), ('a',))
    assert run.boxes('test') is None
    run.score('test')
    assert found[1].test_dataloader.batch_size == 3 and found[1].test_evaluator == dict(type='VOCMetric', metric='mAP')
    run.score('test')
    assert len(found) == 2, 'a split is read once'


@pytest.mark.parametrize(
    ('metrics', 'wanted'),
    [
        ({'coco/cat_precision': 0.9, 'coco/bbox_mAP': 0.5, 'coco/bbox_mAP_50': 0.75}, ('coco/bbox_mAP', 50.0, 75.0)),
        ({'pascal_voc/mAP': 0.5, 'pascal_voc/AP50': 0.25, 'time': 3.0}, ('pascal_voc/mAP', 50.0, 25.0)),
        ({'recall@100': 0.5, 'note': 'text'}, ('recall@100', 50.0, None)),
        ({'data_time': 0.1, 'time': 0.5}, ('coco/bbox_mAP', 0.0, 0.0, True)),
    ],
)
def test_whatever_the_metric(metrics: dict, wanted: tuple) -> None:
    """No metric at all is CocoMetric's way of saying that nothing was detected."""
    assert score(metrics, COCO) == Score(*wanted)


@pytest.mark.parametrize('evaluator', [dict(type='VOCMetric'), dict(COCO, format_only=True)])
def test_no_metric_for_another_reason_is_no_zero(evaluator: dict) -> None:
    with pytest.raises(ValueError, match='the evaluator gives no metric'):
        score(dict(time=1.0), evaluator)


def test_the_fingerprint_of_a_run_is_its_config_with_its_options(config, tmp_path, monkeypatch) -> None:
    """Long trainings are reused by it: nothing else may enter."""
    monkeypatch.setattr(Run, '_call', lambda *_: None)
    options = {'randomness.seed': 3, 'x': 2}
    Run(str(config), tmp_path / 'work', options, dict(OMP_NUM_THREADS='7'), 'other.py').train()
    written = Config(
        dict(
            val_dataloader=dict(dataset=dict(ann_file='val.txt')),
            val_evaluator=dict(type='VOCMetric'),
            x=2,
            randomness=dict(seed=3),
        )
    )
    wanted = hashlib.sha256(written.pretty_text.encode()).hexdigest()
    assert (tmp_path / 'work' / 'config.sha256').read_text() == wanted


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
sys.stdout.buffer.write(b'caf\\xe9\\n')
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


def test_what_a_killed_training_has_left_is_read(tmp_path: Path) -> None:
    folder = tmp_path / '1' / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text('{"loss": 1.0, "time": 2.0}\n{"loss": 1.0}\n{"loss": 1.0, "ti')
    assert Run('config.py', tmp_path).seconds_per_iteration() == 2.0


def test_an_evaluation_without_metrics_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match='no metrics were written'):
        runs.read_metrics(tmp_path)


def test_the_last_lines_of_a_distillation_are_found_in_its_log(tmp_path: Path) -> None:
    """Those of its last end, if it was resumed; the words are those that the hook logs."""
    log = tmp_path / 'train.log'
    log.write_text(f'INFO - {TITLE}\n  old: 1\n')
    log.write_text(f'{log.read_text()}other\nINFO - {TITLE}\n  acc: 2\n  test: x\n$ train.py\n')
    assert Run('config.py', tmp_path).summary() == ['acc: 2', 'test: x']
    log.write_text('a training of a plain detector\n')
    assert Run('config.py', tmp_path).summary() == []
