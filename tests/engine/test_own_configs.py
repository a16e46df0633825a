"""Distillation configs of a user's own as a comparison: what follows from them, and one from end to end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jobs
import pytest
import torch
from conftest import SHAPES_RUN, import_tool
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmkd_graph.datasets import CLASSES, generate_shapes
from mmkd_graph.engine import comparing, own_comparison, runs
from mmkd_graph.engine.own_comparison import OwnComparison
from mmkd_graph.engine.own_configs import OwnConfigs
from mmkd_graph.engine.runs import Given, Run, RunFailed
from mmkd_graph.engine.scores import Score
from mmkd_graph.engine.suites import SuiteError
from mmkd_graph.testing import save_weights, tiny_retinanet

DISTILLED = """_base_ = './student.py'
model = dict(_delete_=True, type='mmkd_graph.GraphDistiller', student={{{{_base_.model}}}},
             teacher=dict(config={teacher!r}, checkpoint={weights!r}), losses=dict(kd=dict(type='mmkd_graph.{loss}')))
custom_hooks = [*_base_.custom_hooks, dict(type='mmkd_graph.StudentExportHook')]
"""
TRAINING = """
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)
train_dataloader['sampler'] = dict(type='DefaultSampler', shuffle=True)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
default_hooks = dict(logger=dict(type='LoggerHook', interval=1), checkpoint=dict(type='CheckpointHook', interval=1))
custom_hooks = [dict(type='EMAHook', momentum=0.1)]
load_from = None
del log_processor
"""
WIDE = tiny_retinanet(base_channels=16, fpn_channels=32, num_classes=len(CLASSES))


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a teacher's config and weights, and the configs ``a.py`` and ``b.py`` of one student."""
    init_default_scope('mmdet')
    folder = tmp_path_factory.mktemp('own')
    generate_shapes(folder / 'data', num_train=4, num_val=1, num_test=2)
    common = SHAPES_RUN.format(data=f'{folder}/data/', classes=tuple(CLASSES)) + TRAINING
    student = tiny_retinanet(num_classes=len(CLASSES))
    (folder / 'student.py').write_text(f'{common}\nmodel = {student!r}\n')
    (folder / 'teacher.py').write_text(f'{common}\nmodel = {WIDE!r}\n')
    names = dict(teacher=str(folder / 'teacher.py'), weights=save_weights(WIDE, folder / 'teacher.pth'))
    (folder / 'a.py').write_text(DISTILLED.format(**names, loss='CRGLoss'))
    (folder / 'b.py').write_text(DISTILLED.format(**names, loss='PKDLoss'))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy whose configs may be changed."""
    for path in made.glob('*.py'):
        shutil.copy(path, tmp_path)
    return tmp_path


@pytest.fixture
def read(folder: Path) -> Callable[..., OwnConfigs]:
    return lambda *names, **options: OwnConfigs.from_files([folder / n for n in names], options, folder / 'work')


def test_student_and_teacher_follow_from_the_configs(read: Callable, folder: Path) -> None:
    """The student has the hooks that it inherits, the weights that it starts from, and the options that are given."""
    (folder / 'a.py').write_text((folder / 'a.py').read_text() + "load_from = 'start.pth'\n")
    (folder / 'b.py').write_text((folder / 'b.py').read_text() + "load_from = 'start.pth'\n")
    own = read('a.py', 'b.py', **{'model.student.bbox_head.stacked_convs': 2})
    assert own.methods == dict(a=str(folder / 'a.py'), b=str(folder / 'b.py'))
    assert own.taught_by == dict(a='teacher', b='teacher') and own.splits == ('test',) and not own.notes
    student, plain = Config.fromstring(own.student, '.py'), Config.fromfile(folder / 'student.py')
    assert student.custom_hooks == [dict(type='EMAHook', momentum=0.1)] and student.load_from == 'start.pth'
    assert student.model.bbox_head.stacked_convs == 2
    student.model.bbox_head.stacked_convs = 1
    for key in ('model', 'train_dataloader', 'optim_wrapper', 'train_cfg', 'test_dataloader', 'test_evaluator'):
        assert student[key].to_dict() == plain[key].to_dict(), key
    (teacher,) = own.teachers.values()
    config = Config.fromstring(teacher.config, '.py')
    assert config.model.to_dict() == WIDE and not config.custom_hooks and not teacher.problem
    assert config.test_dataloader == plain.test_dataloader and teacher.weights.endswith('teacher.pth')


def test_every_teacher_has_a_name(read: Callable, folder: Path, made: Path) -> None:
    other = save_weights(WIDE, folder / 'other.pth', seed=8)
    (folder / 'b.py').write_text((folder / 'b.py').read_text().replace(str(made / 'teacher.pth'), other))
    (folder / 'student').mkdir()
    shutil.copy(folder / 'a.py', folder / 'student' / 'a.py')
    shutil.copy(folder / 'student.py', folder / 'student' / 'student.py')
    own = read('a.py', 'b.py', 'student/a.py')
    assert own.taught_by == {'a': 'teacher-a', 'b': 'teacher-b', 'student_a': 'teacher-a'}


def test_weights_under_a_prefix_are_evaluated_under_their_names(read: Callable, folder: Path, made: Path) -> None:
    """mmengine's loader would leave the teacher as it was initialised, with a warning."""
    state = torch.load(made / 'teacher.pth', weights_only=True)['state_dict']
    torch.save(dict(state_dict={f'architecture.{k}': v for k, v in state.items()}), folder / 'prefixed.pth')
    text = (folder / 'a.py').read_text().replace(str(made / 'teacher.pth'), str(folder / 'prefixed.pth'))
    (folder / 'a.py').write_text(text)
    (teacher,) = read('a.py').teachers.values()
    written = torch.load(teacher.weights, weights_only=True)['state_dict']
    assert written.keys() == state.keys() and all(torch.equal(written[k], v) for k, v in state.items())


@pytest.mark.parametrize(
    ('line', 'words'),
    [
        ('train_cfg = dict(max_epochs=2)', 'train their students differently, in train_cfg.max_epochs; accepted'),
        ('custom_hooks = []', 'differently, in custom_hooks;'),
        ("model = dict(teacher=dict(checkpoint='nowhere.pth'))", "teacher.checkpoint='nowhere.pth': no such file"),
        ("model = dict(losses=dict(kd=dict(type='mmkd_graph.PKDLos')))", 'model.losses.kd'),
        ("model = dict(_delete_=True, type='RetinaNet')", "model.type='RetinaNet'; accepted: a distillation"),
        ('x = 1 / 0', 'c.py cannot be read'),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(
    line: str, words: str, read: Callable, folder: Path
) -> None:
    (folder / 'c.py').write_text(f"_base_ = './b.py'\n{line}\n")
    with pytest.raises(SuiteError) as error:
        read('a.py', 'c.py')
    assert words in str(error.value) and '\n' not in str(error.value)


def test_val_and_test_of_the_same_images_are_said_to_be(read: Callable, folder: Path) -> None:
    (folder / 'student.py').open('a').write('val_dataloader = test_dataloader\nval_evaluator = test_evaluator\n')
    own = read('a.py')
    assert own.splits == ('test', 'val')
    assert own.notes == ('val and test are the same data (annotations/instances_test.json).',)


def test_a_training_that_reads_its_validations_has_them(read: Callable, folder: Path) -> None:
    assert not read('a.py').validated
    (folder / 'student.py').open('a').write("param_scheduler = [dict(type='ReduceOnPlateauLR', monitor='x')]\n")
    assert read('a.py').validated


class FakeRun(Run):
    """Is trained and evaluated in no time."""

    def train(self) -> None:
        self.work_dir.mkdir(parents=True, exist_ok=True)

    def score(self, split: str) -> Score:
        return (
            Score('pascal_voc/mAP', 0.0, empty=True) if self.work_dir.name == 'a-1' else Score('pascal_voc/mAP', 30.0)
        )

    def seconds_per_iteration(self) -> None:
        return None

    def boxes(self, split: str) -> None:
        return None


class FakeGiven(FakeRun, Given):
    def score(self, split: str) -> Score:
        raise RunFailed('it has\nno head')


def test_rows_without_numbers_are_left_out_with_a_line(
    read: Callable, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A teacher of other classes, one that fails, a student that finds nothing, another metric, a log without times."""
    checkpoint = torch.load(Path(Config.fromfile(folder / 'b.py').model.teacher.checkpoint), weights_only=True)
    checkpoint['meta'] = dict(dataset_meta=dict(classes=('cat', *CLASSES[1:])))
    torch.save(checkpoint, folder / 'cats.pth')
    (folder / 'c.py').write_text(
        f"_base_ = './b.py'\nmodel = dict(teacher=dict(checkpoint={str(folder / 'cats.pth')!r}))\n"
    )
    monkeypatch.setattr(comparing, 'Run', FakeRun)
    monkeypatch.setattr(own_comparison, 'Run', FakeRun)
    monkeypatch.setattr(own_comparison, 'Given', FakeGiven)
    own = read('a.py', 'c.py')
    comparison = OwnComparison(None, folder / 'work', ['a', 'c'], [0, 1], own=own)
    results = comparison.results()
    assert list(results) == ['student', 'a', 'c']
    report = comparison.report(results, 'this machine')
    assert '| a | 15.0 ± 190.6 |  | -15.0 ± 190.6 |  |  |  | 30.0, 0.0 |' in report
    for note in (
        'No row of teacher-a: it could not be evaluated: it has no head.',
        'No row of teacher-c: other classes than the data: ',
        'a-1 detects nothing at all on test: its AP is 0.',
    ):
        assert note in report and note in capsys.readouterr().out + report
    assert 'AP is 100 × `pascal_voc/mAP`.' in report and '"by images" is empty' in report


def test_jobs_have_gpus_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    assert [place['CUDA_VISIBLE_DEVICES'] for place in comparing.gpus(3)] == ['0', '1', '0']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,7')
    assert [place['CUDA_VISIBLE_DEVICES'] for place in comparing.gpus(2)] == ['4', '7']
    assert comparing.gpus(1) == [{}], 'as the environment has it'
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    assert comparing.gpus(2) == [{}, {}]


def test_from_end_to_end(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step of student and distilled student is the same; a second call does nothing again."""
    calls = []

    def call(self: Run, script: str, arguments: list[str], options: dict) -> None:
        calls.append(f'{self.work_dir.name} {script}')
        config = runs.write_config(self.config, options, self.work_dir / 'configs' / script)
        jobs.run(script, config, *arguments, log=self.work_dir / f'{script}.log')

    monkeypatch.setattr(Run, '_call', call)
    compare = import_tool('compare')
    command = [str(made / 'a.py'), '--seeds', '3', '--work-dir', str(tmp_path / 'out')]
    assert compare.main(command) == 0
    assert calls == [
        *('teacher test.py', 'a-3 train.py', 'a-3 test.py', 'student-3 train.py', 'student-3 test.py'),
    ]
    first = [Run('', tmp_path / 'out' / name).scalars()[0] for name in ('a-3', 'student-3')]
    assert first[0]['loss_cls'] == first[1]['loss_cls'] and first[0]['loss'] > first[1]['loss']
    results = json.loads((tmp_path / 'out' / 'results-test.json').read_text())
    assert list(results['results']) == ['teacher', 'student', 'a'] and results['metric'] == 'coco/bbox_mAP'
    assert compare.main(command) == 0
    assert len(calls) == 5
    save_weights(WIDE, tmp_path / 'retrained.pth', seed=9)
    command += ['--cfg-options', f'model.teacher.checkpoint={tmp_path / "retrained.pth"}']
    assert compare.main(command) == 1, 'runs of two teachers in one table'
