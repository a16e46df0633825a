from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


@pytest.fixture(scope='module')
def accuracy():
    sys.path.insert(0, str(TOOLS / 'benchmark'))
    try:
        import accuracy
    finally:
        sys.path.pop(0)
    return accuracy


def test_interval_is_students_t(accuracy) -> None:
    # standard deviation 1, t(0.975, 2) = 4.3027
    assert accuracy.interval([1.0, 2.0, 3.0]) == pytest.approx(4.3027 / math.sqrt(3), abs=1e-3)
    assert math.isnan(accuracy.interval([1.0]))


def test_gains_are_paired_by_seed(accuracy) -> None:
    results = {
        'teacher': dict(ap=[40.0], ap50=[60.0], seconds=[1.0]),
        'student': dict(ap=[20.0, 30.0], ap50=[40.0, 50.0], seconds=[0.5, 0.5]),
        'crg': dict(ap=[23.0, 33.0], ap50=[43.0, 53.0], seconds=[0.6, 0.7]),
    }
    rows = {
        line.split('|')[1].strip(): [x.strip() for x in line.split('|')[2:-1]]
        for line in accuracy.table(results).splitlines()
    }
    assert rows['teacher'][0] == '40.0'
    assert rows['crg'][2] == '+3.0 ± 0.0', 'the spread over seeds is not the spread of the gain'
    assert rows['crg'][3] == '20 %'  # 3 of the gap of 40 - 25
    assert rows['crg'][4] == '1.30' and rows['crg'][5] == '23.0, 33.0'


@pytest.mark.parametrize('entry', ['crg', 'student=x.py', 'crg=nowhere.py'])
def test_bad_rows_are_refused(accuracy, entry: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        accuracy.parse_args(['--teacher', 't.py', '--student', 's.py', '--work-dir', 'w', '--distilled', entry])
    assert entry in capsys.readouterr().err


def test_a_tuned_key_names_the_loss_of_each_method(accuracy, tmp_path: Path) -> None:
    config = tmp_path / 'config.py'
    config.write_text("model = dict(losses=dict(pkd=dict(type='PearsonLoss')))")
    tuning = accuracy.Tuning.parse('model.losses.{loss}.loss_weight.ratio=0.3,1')
    assert tuning.options(str(config), '0.3') == {'model.losses.pkd.loss_weight.ratio': 0.3}
    config.write_text("model = dict(losses=dict(a=dict(type='X'), b=dict(type='Y')))")
    with pytest.raises(ValueError, match='has the losses a, b; accepted: one'):
        tuning.options(str(config), '1')
    with pytest.raises(Exception, match='at least two values'):
        accuracy.Tuning.parse('model.x=1')


class FakeRun:
    """Counts what is trained and evaluated; AP is best for the weight 2, and better than the student's."""

    calls: list[tuple[str, str]] = []

    def __init__(self, config: str, work_dir: Path, options: dict, environment: dict) -> None:
        self.work_dir, self.options = work_dir, options
        self.checkpoint = work_dir / 'iter_1.pth'

    def train(self, report: object) -> None:
        self.calls.append((self.work_dir.name, 'train'))

    def evaluate(self, report: object, split: str) -> dict[str, float]:
        self.calls.append((self.work_dir.name, split))
        weight = self.options.get('model.losses.crg.loss_weight')
        ap = 0.3 if weight is None else 0.4 - 0.01 * abs(weight - 2)
        return {'coco/bbox_mAP': ap + 0.001 * self.options['randomness.seed'], 'coco/bbox_mAP_50': ap}

    def seconds_per_iteration(self) -> float:
        return 1.0


def test_settings_are_chosen_on_val_and_reported_on_test(accuracy, tmp_path: Path, monkeypatch) -> None:
    config = tmp_path / 'crg.py'
    config.write_text("model = dict(losses=dict(crg=dict(type='ChannelGraphLoss')))")
    monkeypatch.setattr(accuracy, 'Run', FakeRun)
    monkeypatch.setattr(FakeRun, 'calls', [])
    arguments = f'--teacher {config} --student {config} --distilled crg={config} --seeds 0 1 --work-dir {tmp_path}/out'
    tune = 'model.losses.{loss}.loss_weight=1,2,8'
    assert accuracy.main([*arguments.split(), '--tune', tune]) == 0
    read = {split: {name for name, what in FakeRun.calls if what == split} for split in ('val', 'test')}
    assert read['val'] == {'crg-1-0', 'crg-2-0', 'crg-8-0'}
    assert read['test'] == {'teacher-0', 'teacher-1', 'student-0', 'student-1', 'crg-2-0', 'crg-2-1'}
    report = (tmp_path / 'out' / 'results-test-crg.md').read_text()
    assert '+10.0' in report and 'chosen on val by seed 0 (1: 39.0, 2: 40.0, 8: 34.0)' in report
    assert (tmp_path / 'out' / 'results-test-crg.png').stat().st_size > 5000
