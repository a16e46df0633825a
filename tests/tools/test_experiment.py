from __future__ import annotations

import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


@pytest.fixture(scope='module')
def experiment():
    sys.path.insert(0, str(TOOLS))
    try:
        import experiment
    finally:
        sys.path.pop(0)
    return experiment


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
def test_progress_is_read_from_mmengines_log(experiment, line: str, wanted: tuple) -> None:
    match = experiment._TRAIN_LINE.search(line)
    assert (int(match['done']), int(match['total']), match['eta']) == wanted


def test_a_finished_run_is_not_trained_again_and_another_config_is_refused(experiment, config, tmp_path, monkeypatch):
    calls = []

    def call(self, script, arguments, *rest):
        calls.append(script)

    monkeypatch.setattr(experiment.Run, '_call', call)
    run = experiment.Run(str(config), tmp_path / 'work', {'x': 2})
    run.train()
    run.train()
    assert calls == ['train.py']
    with pytest.raises(experiment.RunFailed, match='another version'):
        experiment.Run(str(config), tmp_path / 'work', {'x': 3}).train()
    config.write_text(config.read_text().replace('val.txt', 'other.txt'))
    with pytest.raises(experiment.RunFailed, match='another version'):
        run.train()


def test_validation_annotations_take_the_place_of_the_tests(experiment, config, tmp_path) -> None:
    options = experiment.Run(str(config), tmp_path)._val_as_test()
    assert options == {'test_dataloader.dataset.ann_file': 'val.txt'}


def test_a_failed_process_is_named_with_its_log(experiment, tmp_path: Path) -> None:
    (tmp_path / 'broken.py').write_text('x = 1\n')  # no model in it
    run = experiment.Run(str(tmp_path / 'broken.py'), tmp_path / 'work')
    with pytest.raises(
        experiment.RunFailed, match=r'(?s)train\.py of .*broken\.py ended with exit code 2.*train\.log.*no model'
    ):
        run.train()
    assert not (tmp_path / 'work' / 'trained').exists()
