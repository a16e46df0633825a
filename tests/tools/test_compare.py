from __future__ import annotations

import copy
import dataclasses
import functools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TOOLS, import_tool
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.nn import functional

from mmkd_graph.engine import comparing
from mmkd_graph.engine.gains import interval, table, verdicts
from mmkd_graph.engine.runs import Boxes, RunFailed
from mmkd_graph.engine.scores import Score
from mmkd_graph.engine.suites import Suite, untried
from mmkd_graph.registry import MODELS


@pytest.fixture(scope='module')
def compare():
    return import_tool('compare')


def test_interval_is_students_t() -> None:
    # standard deviation 1, t(0.975, 2) = 4.3027
    assert interval([1.0, 2.0, 3.0]) == pytest.approx(4.3027 / math.sqrt(3), abs=1e-3)
    assert math.isnan(interval([1.0]))


def test_gains_are_paired_by_seed() -> None:
    results = {
        'teacher': dict(ap=[40.0], ap50=[60.0], seconds=[1.0]),
        'student': dict(ap=[20.0, 30.0], ap50=[40.0, 50.0], seconds=[0.5, 0.5]),
        'crg': dict(ap=[23.0, 33.0], ap50=[43.0, 53.0], seconds=[0.6, 0.7]),
    }
    rows = {
        line.split('|')[1].strip(): [x.strip() for x in line.split('|')[2:-1]]
        for line in table(results, dict(crg=(-1.25, 6.0))).splitlines()
    }
    assert rows['teacher'][0] == '40.0'
    assert rows['crg'][2] == '+3.0 ± 0.0', 'the spread over seeds is not the spread of the gain'
    assert rows['crg'][3] == '-1.2 to +6.0'
    assert rows['crg'][4] == '20 %'  # 3 of the gap of 40 - 25
    assert rows['crg'][5] == '1.30' and rows['crg'][6] == '23.0, 33.0'


@pytest.mark.parametrize(
    ('gains', 'images', 'wanted'),
    [
        ([2.0, 2.1, 2.2], (1.0, 3.0), 'a gain is shown: both intervals are above 0.'),
        ([-2.0, -2.1, -2.2], (-3.0, -1.0), 'a loss is shown: both intervals are below 0.'),
        ([2.0, 2.1, 2.2], (-1.0, 3.0), 'the seeds show a gain, but its interval over the images holds 0'),
        ([-2.0, -2.1, -2.2], (-3.0, 1.0), 'the seeds show a loss, but its interval over the images holds 0'),
        ([2.0, 2.1, 2.2], None, 'the interval over the seeds is above 0, a gain; that over the images is not known.'),
        ([-1.0, 2.0, 0.5], (1.0, 3.0), '3 seeds show neither a gain nor a loss.'),
        ([1.0, 2.0], (1.0, 3.0), '2 seeds show neither a gain nor a loss; use three at least.'),
        ([2.0], (1.0, 3.0), 'one seed shows neither a gain nor a loss; use three at least.'),
    ],
)
def test_the_verdict_takes_both_intervals(gains: list[float], images: tuple | None, wanted: str) -> None:
    results = {name: dict(ap=gains) for name in ('crg', 'pkd')} | {'student': dict(ap=[0.0] * len(gains))}
    by_images = {name: images for name in ('crg', 'pkd') if images}
    assert verdicts(results, by_images, ['crg', 'pkd']).startswith(f'crg, pkd: {wanted}')


@pytest.mark.parametrize(
    ('best', 'wanted'),
    [(1, [2, 4, 8, 1]), (2, [2, 4, 8, 1]), (4, [2, 4, 8]), (8, [2, 4, 8, 16]), (32, [2, 4, 8, 16, 32])],
)
def test_the_search_goes_on_until_the_best_value_has_no_better_neighbour(best: int, wanted: list) -> None:
    values, scores = [1, 2, 4, 8, 16, 32], {}
    while new := untried(values, scores):
        scores |= {value: -abs(math.log2(value / best)) for value in new}
    assert list(scores) == wanted
    assert max(scores, key=scores.get) == best


SUITE = """
teacher = {config!r}
student = {config!r}
methods = dict(crg=dict(type='CRGLoss', loss_weight=dict(type='GradientRatio', ratio=1)), own={config!r})
tune = dict(key='loss_weight.ratio', values=[1, 2, 8])
seeds = [0, 1]
distiller = dict(taps='backbone')
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    config = tmp_path / 'detector.py'
    config.write_text("model = dict(type='RetinaNet', backbone=dict(depth=18))\ncustom_hooks = [dict(type='EMAHook')]")
    path = tmp_path / 'suite.py'
    path.write_text(SUITE.format(config=str(config)))
    return path


@pytest.mark.parametrize(
    ('line', 'words'),
    [
        ("methods = dict(student=dict(type='X'))", 'methods.student; accepted: any other name'),
        (
            "methods = dict(pkd='nowhere.py')",
            "methods.pkd='nowhere.py'; accepted: dict(type=…), dict(losses=…), or",
        ),
        ('methods = dict(pkd=dict(ratio=1))', 'methods.pkd='),
        ("pretrain = 'nowhere.py'", "pretrain='nowhere.py': no such config"),
        ("teacher = 'nowhere.py'", "teacher='nowhere.py': no such config"),
        ("tune = dict(key='loss_weight', values=[1])", 'at least two values'),
        ("tune = dict(key='loss_weight', values=[2, 1])", 'values that ascend'),
        ("tune = dict(key='loss_weight', values=[1, 2], seed='a')", 'seed=<integer>'),
        ("tune = dict(key='loss_weight.rate', values=[1, 2])", "tune.key='loss_weight.rate'; accepted: a key that one"),
        ('learner = 1', 'learner; accepted: distiller, methods, pretrain, reported, seeds, student, teacher, tune'),
        ('distiller = dict(losses={})', 'distiller.losses; accepted: other options'),
        ('del methods', 'lacks methods'),
    ],
)
def test_a_suite_that_can_not_be_run_is_refused(
    compare, suite: Path, line: str, words: str, capsys: pytest.CaptureFixture
) -> None:
    suite.write_text(f'{suite.read_text()}\n{line}\n')
    with pytest.raises(SystemExit):
        compare.parse_args([str(suite)])
    assert words in capsys.readouterr().err


def test_an_unknown_method_is_refused(compare, suite: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        compare.parse_args([str(suite), '--methods', 'crg', 'cgr'])
    assert '--methods cgr; accepted: crg, own' in capsys.readouterr().err


def test_a_seed_of_all_runs_is_refused(compare, suite: Path, capsys: pytest.CaptureFixture) -> None:
    """The students would be as equal as if no seed mattered, and in other comparisons not be paired."""
    with pytest.raises(SystemExit):
        compare.parse_args([str(suite), '--cfg-options', 'randomness.seed=3'])
    assert '--cfg-options randomness.seed would be that of all runs; accepted: --seeds' in capsys.readouterr().err


def test_a_run_with_another_metric_is_named(compare, suite: Path, tmp_path: Path, monkeypatch) -> None:
    class Other(FakeRun):
        def score(self, split: str) -> Score:
            found = super().score(split)
            return dataclasses.replace(found, metric='acc') if self.work_dir.name == 'own-1' else found

    monkeypatch.setattr(comparing, 'Run', Other)
    assert compare.main([str(suite), '--work-dir', f'{tmp_path}/out']) == 0
    report = (tmp_path / 'out' / 'results-test.md').read_text()
    assert 'The metric of own-1 is `acc`, which the others do not have.' in report


def test_after_a_run_that_fails_no_other_begins(compare, suite: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    class Failing(FakeRun):
        def train(self) -> None:
            super().train()
            if self.work_dir.name == 'own-0':
                raise RunFailed('out of memory')

    monkeypatch.setattr(comparing, 'Run', Failing)
    monkeypatch.setattr(FakeRun, 'calls', [])
    assert compare.main([str(suite), '--work-dir', f'{tmp_path}/out']) == 1
    assert FakeRun.calls[-1] == ('own-0', 'train') and capsys.readouterr().err == 'out of memory\n'


def test_a_method_is_the_students_config_with_one_loss(suite: Path, tmp_path: Path) -> None:
    """Everything but the model is the student's; what is tuned reaches the loss."""
    content = Suite.from_file(suite)
    path = tmp_path / 'crg.py'
    path.write_text(content.config('crg', Path('teacher.pth'), 2))
    config = Config.fromfile(path)
    assert config.model.losses == dict(crg=dict(type='CRGLoss', loss_weight=dict(type='GradientRatio', ratio=2)))
    assert config.model.student == dict(type='RetinaNet', backbone=dict(depth=18))
    assert config.model.taps == 'backbone'
    assert config.model.teacher.checkpoint == 'teacher.pth' and config.custom_hooks == [dict(type='EMAHook')]
    path.write_text(content.config('own', Path('teacher.pth')))
    assert Config.fromfile(path).model.teacher == dict(checkpoint='teacher.pth')


@pytest.mark.parametrize('path', sorted((TOOLS / 'benchmark' / 'suites').glob('*.py')), ids=lambda path: path.stem)
def test_the_suites_that_come_with_it_build(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every method of every suite, with the last value it may choose if it chooses."""
    monkeypatch.chdir(TOOLS.parent)
    init_default_scope('mmdet')
    suite = Suite.from_file(path)
    for name in suite.methods:
        config = tmp_path / 'config.py'
        value = suite.tune['values'][-1] if suite.tune and suite.tunes(name) else None
        config.write_text(suite.config(name, Path('teacher.pth'), value))
        losses = Config.fromfile(config).model.losses
        method = suite.methods[name]
        if isinstance(method, dict):
            assert [*losses] == [*method.get('losses', [name])]
        if value is not None:
            own = {'losses': losses} if 'losses' in method else losses[name]
            assert functools.reduce(dict.__getitem__, suite.tune['key'].split('.'), own) == value
        for loss in losses.values():
            loss.pop('loss_weight', 1.0)
            assert MODELS.build(loss)


class FakeRun:
    """Counts what is trained and evaluated; AP is best for the ratio 2, and better than the student's."""

    calls: list[tuple[str, str]] = []
    configs: dict[str, str] = {}
    starts: set[tuple[str, str | None]] = set()

    def __init__(self, config: str, work_dir: Path, options: dict, environment: dict, trainer: str) -> None:
        self.work_dir, self.options, self.started = work_dir, options, (trainer, environment.get('MMKD_KEPT_TEACHER'))
        assert (TOOLS / trainer).is_file()
        self.checkpoint = work_dir / 'iter_1.pth'
        self.configs[work_dir.name] = config

    def train(self) -> None:
        self.starts.add(self.started)
        self.calls.append((self.work_dir.name, 'train'))

    def score(self, split: str) -> Score:
        self.calls.append((self.work_dir.name, split))
        _, *ratio, _ = self.work_dir.name.split('-')
        ap = 0.4 - 0.01 * abs(float(ratio[0]) - 2) if ratio else 0.3
        return Score('coco/bbox_mAP', 100 * (ap + 0.001 * self.options['randomness.seed']), 100 * ap)

    def seconds_per_iteration(self) -> float:
        return 1.0

    def boxes(self, split: str) -> Boxes:
        return Boxes(f'{split}.json', Path(split, self.work_dir.name), ('cat',))


@pytest.fixture(autouse=True)
def drawn_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws that are 5 to 15 AP better for methods than for the student, alike for all seeds."""

    def resampled_ap(ann_file: str, predictions: list[Path], classes: tuple) -> np.ndarray:
        assert (
            ann_file == 'test.json' and {path.parent.name for path in predictions} == {'test'} and classes == ('cat',)
        )
        gains = [0 if path.name.startswith('student-') else 1 for path in predictions]
        return 0.3 + np.outer(gains, np.linspace(0.05, 0.15, 401))

    monkeypatch.setattr(comparing, 'resampled_ap', resampled_ap)


def test_settings_are_chosen_on_val_and_reported_on_test(compare, suite: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(comparing, 'Run', FakeRun)
    monkeypatch.setattr(FakeRun, 'calls', [])
    assert compare.main([str(suite), '--work-dir', f'{tmp_path}/out']) == 0
    read = {split: {name for name, what in FakeRun.calls if what == split} for split in ('val', 'test')}
    assert read['val'] == {'crg-1-0', 'crg-2-0', 'crg-8-0'}
    assert read['test'] == {'teacher-0', 'student-0', 'student-1', 'crg-2-0', 'crg-2-1', 'own-0', 'own-1'}
    report = (tmp_path / 'out' / 'results-test.md').read_text()
    assert 'crg: a gain is shown: both intervals are above 0.\nown: 2 seeds show neither a gain' in report
    assert (
        '+10.0' in report
        and '+5.2 to +14.8' in report
        and 'on val by seed 0: crg 2 (1: 39.0, 2: 40.0, 8: 34.0).' in report
    )
    assert (tmp_path / 'out' / 'results-test.png').stat().st_size > 5000


def test_settings_are_chosen_by_a_seed_of_their_own(compare, suite: Path, tmp_path: Path, monkeypatch) -> None:
    """A loss without the key that is tuned is reported as it is."""
    monkeypatch.setattr(comparing, 'Run', FakeRun)
    monkeypatch.setattr(FakeRun, 'calls', [])
    suite.write_text(f"{suite.read_text()}\ntune['seed'] = 7\nmethods['plain'] = dict(type='CRGLoss')\n")
    assert compare.main([str(suite), '--work-dir', f'{tmp_path}/out']) == 0
    trained = {name for name, what in FakeRun.calls if what == 'train'}
    assert {name for name, what in FakeRun.calls if what == 'val'} == {'crg-1-7', 'crg-2-7', 'crg-8-7'}
    assert {name for name in trained if name.endswith('-7')} == {'crg-1-7', 'crg-2-7', 'crg-8-7'}
    assert {'crg-2-0', 'crg-2-1', 'plain-0', 'plain-1'} <= trained
    assert 'on val by seed 7: crg 2 (' in (tmp_path / 'out' / 'results-test.md').read_text()


def test_backbones_start_where_the_suite_says(compare, suite: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(comparing, 'Run', FakeRun)
    monkeypatch.setattr(FakeRun, 'calls', [])
    monkeypatch.setattr(FakeRun, 'configs', {})
    suite.write_text(f'{suite.read_text()}\npretrain = student\n')
    assert compare.main([str(suite), '--work-dir', f'{tmp_path}/out']) == 0
    assert [what for name, what in FakeRun.calls if name == 'pretrain-0'] == ['train'], 'a split was read for nothing'
    assert FakeRun.calls[2] == ('pretrain-0', 'train'), 'not right after the teacher'
    start = dict(type='Pretrained', checkpoint=f'{tmp_path}/out/pretrain-0/iter_1.pth', prefix='backbone.')
    for name, path in FakeRun.configs.items():
        model = Config.fromfile(path).model
        model = model if name.startswith('own') else model.get('student', model)
        expected = None if name.startswith(('teacher', 'pretrain', 'own')) else start
        assert model.get('backbone', {}).get('init_cfg') == expected, name
    assert 'start from the same trained weights' in (tmp_path / 'out' / 'results-test.md').read_text()


def test_a_teacher_that_has_weights_is_evaluated_and_not_trained(compare, suite: Path, tmp_path: Path, monkeypatch):
    class FakeGiven(FakeRun):
        def __init__(self, config: str, work_dir: Path, options: dict, *rest: object, weights: str) -> None:
            super().__init__(config, work_dir, options, *rest)
            self.checkpoint = weights

        def train(self) -> None:
            assert 'randomness.seed' not in self.options

        def score(self, split: str) -> Score:
            return Score('coco/bbox_mAP', 50.0, 70.0)

    monkeypatch.setattr(comparing, 'Run', FakeRun)
    monkeypatch.setattr(comparing, 'Given', FakeGiven)
    monkeypatch.setattr(FakeRun, 'calls', [])
    monkeypatch.setattr(FakeRun, 'configs', {})
    suite.write_text(f"{suite.read_text()}\nweights = 'https://teacher.pth'\ntune = None\n")
    assert compare.main([str(suite), '--work-dir', f'{tmp_path}/out']) == 0
    assert 'teacher-0' not in FakeRun.configs
    assert Config.fromfile(FakeRun.configs['own-0']).model.teacher.checkpoint == 'https://teacher.pth'
    assert 'the teacher as its weights are' in (tmp_path / 'out' / 'results-test.md').read_text()


@pytest.mark.parametrize('keep', [False, True])
def test_the_teacher_is_kept_on_request(compare, suite: Path, tmp_path: Path, monkeypatch, keep: bool) -> None:
    monkeypatch.setattr(comparing, 'Run', FakeRun)
    monkeypatch.setattr(FakeRun, 'calls', [])
    monkeypatch.setattr(FakeRun, 'starts', set())
    assert compare.main([str(suite), '--work-dir', f'{tmp_path}/out', *['--keep-teacher'] * keep]) == 0
    kept = ('benchmark/train_with_kept_teacher.py', f'{tmp_path}/out/kept-teacher')
    assert FakeRun.starts == {kept if keep else ('train.py', None)}
    assert ('times are without it' in (tmp_path / 'out' / 'results-test.md').read_text()) == keep


class FakeTeacher:
    """A convolution and its pooled map; counts the images that go through."""

    tap = 'neck'

    def __init__(self) -> None:
        self.model = nn.Conv2d(3, 2, 1)
        self.images = 0

    @torch.no_grad()
    def extract(self, inputs: Tensor) -> tuple[Tensor, ...]:
        self.images += len(inputs)
        x = self.model(inputs)
        return x, functional.avg_pool2d(x, 2)


def test_a_kept_teacher_runs_once_for_every_image(tmp_path: Path) -> None:
    extract = import_tool('benchmark/train_with_kept_teacher').kept(FakeTeacher.extract, tmp_path)
    teacher, images = FakeTeacher(), torch.randn(4, 3, 8, 8)
    for pick, seen in (([0, 1], 2), ([1, 2], 3), ([2, 0, 1], 3), ([3, 3], 5)):
        for given, expected in zip(extract(teacher, images[pick]), teacher.extract(images[pick]), strict=True):
            assert torch.equal(given, expected)
        teacher.images -= len(pick)
        assert teacher.images == seen
    other = FakeTeacher()
    assert torch.equal(extract(other, images)[1], other.extract(images)[1]), 'features of another teacher'
    again = copy.deepcopy(other)
    assert torch.equal(extract(again, images)[0], other.extract(images)[0])
    assert again.images == other.images - 4, 'a later process has to run the teacher again'
