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
    assert rows['crg'][4] == '0.650' and rows['crg'][5] == '23.0, 33.0'


@pytest.mark.parametrize('entry', ['crg', 'student=x.py', 'crg=nowhere.py'])
def test_bad_rows_are_refused(accuracy, entry: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        accuracy.parse_args(['--teacher', 't.py', '--student', 's.py', '--work-dir', 'w', '--distilled', entry])
    assert entry in capsys.readouterr().err
