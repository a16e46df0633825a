"""What ``TrainingRunner`` adds to mmengine's runner, with a model of two numbers."""

from __future__ import annotations

import copy
import datetime
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.registry import RUNNERS as MMENGINE_RUNNERS
from mmengine.runner import Runner
from yapf.yapflib import yapf_api

from mmkd_graph.checkpoints import TRUST, weights_only
from mmkd_graph.distillers.missing import MissingWeights
from mmkd_graph.engine.errors import NotStarted, WrongInput
from mmkd_graph.engine.guards import guard
from mmkd_graph.engine.runner import TrainingRunner
from mmkd_graph.hooks import TrainingSummaryHook
from mmkd_graph.hooks.training_summary_hook import summary
from mmkd_graph.testing import tiny_retinanet


@MODELS.register_module()
class ToyOfTheRunner(BaseModel):
    def __init__(self, parts: tuple[str, ...] = ('backbone',), init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        for part in parts:
            self.add_module(part, torch.nn.Linear(2, 1))

    def forward(self, inputs: Any, mode: str = 'loss', **_: Any) -> Any:
        if mode == 'predict':
            return [dict(weight=float(self.backbone.weight.sum()))]
        inputs = torch.stack(inputs)
        return dict(loss=sum(part(inputs).sum() for part in self.children() if isinstance(part, torch.nn.Linear)))


@DATASETS.register_module()
class ToyDataOfTheRunner(BaseDataset):
    def load_data_list(self) -> list[dict]:
        return [dict(inputs=torch.tensor([1.0, i])) for i in range(4)]


@METRICS.register_module()
class ToyMetricOfTheRunner(BaseMetric):
    """Grows from one validation of a process to the next; may die in one of them."""

    count, dies_at = 0, 0

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(1)

    def compute_metrics(self, results: list) -> dict:
        type(self).count += 1
        if self.count == self.dies_at:
            raise RuntimeError('killed')
        return dict(acc=self.count)


@pytest.fixture(autouse=True)
def fresh_metric_and_fast_formatting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yapf_api, 'FormatCode', lambda text, **_: (text, False))
    monkeypatch.setattr(ToyMetricOfTheRunner, 'count', 0)
    monkeypatch.setattr(ToyMetricOfTheRunner, 'dies_at', 0)


def config(work_dir: Path, by_epoch: bool = True, **more: Any) -> Config:
    loader = dict(dataset=dict(type='ToyDataOfTheRunner', serialize_data=False), batch_size=1, num_workers=0)
    length = dict(by_epoch=True, max_epochs=3) if by_epoch else dict(by_epoch=False, max_iters=6, val_interval=2)
    hooks = dict(logger=None, timer=None)
    hooks['checkpoint'] = dict(type='CheckpointHook', interval=1, by_epoch=by_epoch, save_best='acc')
    settings = dict(
        runner_type='mmkd_graph.TrainingRunner',
        model=dict(type='ToyOfTheRunner'),
        work_dir=str(work_dir),
        train_dataloader=dict(loader, sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler')),
        val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        test_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=length,
        val_cfg=dict(),
        test_cfg=dict(),
        val_evaluator=dict(type='ToyMetricOfTheRunner'),
        test_evaluator=dict(type='ToyMetricOfTheRunner'),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=hooks,
        experiment_name=f'{work_dir.parent.name}-{work_dir.name}-{os.urandom(4).hex()}',
    )
    return Config({**settings, **more})


def build(*args: Any, **more: Any) -> TrainingRunner:
    runner = MMENGINE_RUNNERS.build(config(*args, **more))
    assert type(runner) is TrainingRunner
    return runner


def train(*args: Any, **more: Any) -> TrainingRunner:
    runner = build(*args, **more)
    runner.train()
    return runner


def saved(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=False)


# ---------------------------------------------------------------- what the config gets


def test_guards_are_put_around_a_config_once() -> None:
    model = dict(type='mmkd_graph.GraphDistiller')
    cfg = Config(dict(model=model, train_dataloader=dict(sampler=dict(type='DefaultSampler'))))
    guard(cfg)
    once = copy.deepcopy(cfg.to_dict())
    names = [hook['type'].split('.')[1] for hook in cfg.custom_hooks]
    assert names == [
        'IterationSeedHook',
        'NonFiniteLossHook',
        'UnreadableImageHook',
        'DueValidationHook',
        'TrainingSummaryHook',
        'TrainingCheckHook',
    ]
    assert cfg.default_hooks.checkpoint.type == 'mmkd_graph.SafeCheckpointHook'
    guard(cfg)
    assert cfg.to_dict() == once
    cfg = Config(dict(model=model, training_check=False, default_hooks=dict(checkpoint=None)))
    guard(cfg)
    assert 'TrainingCheckHook' not in str(cfg.custom_hooks) and cfg.default_hooks.checkpoint is None
    board = dict(type='TensorboardVisBackend')
    for backends in (board, [dict(type='LocalVisBackend'), board]):
        cfg = Config(dict(model=model, visualizer=dict(vis_backends=backends)))
        guard(cfg)
        assert cfg.custom_hooks[-1].type == 'mmkd_graph.TensorboardLayoutHook'
    cfg = Config(dict(model=dict(type='RetinaNet'), visualizer=dict(vis_backends=board)))
    guard(cfg)
    assert 'TensorboardLayoutHook' not in str(cfg.custom_hooks)


def test_the_config_that_is_left_starts_anew(tmp_path: Path) -> None:
    train(tmp_path / 'a')
    runner = train(tmp_path / 'a', resume=True, load_from=str(tmp_path / 'a' / 'epoch_1.pth'))
    assert runner.cfg.resume is False and runner.cfg.load_from is None
    runner = train(tmp_path / 'a', resume='auto', load_from='weights.pth')
    assert runner.cfg.resume is False and runner.cfg.load_from == 'weights.pth'


# ---------------------------------------------------------------- resuming


def test_a_resumed_run_has_the_seed_of_its_checkpoint_from_the_start(tmp_path: Path) -> None:
    whole = train(tmp_path / 'whole')
    part = tmp_path / 'part'
    part.mkdir()
    (part / 'epoch_1.pth').write_bytes((tmp_path / 'whole' / 'epoch_1.pth').read_bytes())
    (part / 'last_checkpoint').write_text(str(part / 'epoch_1.pth'))
    resumed = build(part, resume='auto')
    assert resumed.seed == whole.seed
    resumed.train()
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_without_a_checkpoint_a_run_starts_from_the_weights_of_its_config(tmp_path: Path) -> None:
    train(tmp_path / 'a')
    best = str(next((tmp_path / 'a').glob('best_*')))  # has no optimizer: good to start from, not to resume
    runner = train(tmp_path / 'b', resume='auto', load_from=best)
    assert not runner._resume and runner.iter == 12
    with pytest.raises(WrongInput, match=r'best_acc.*weights without optimizer.*load_from starts'):
        train(tmp_path / 'b', resume=True, load_from=best)


def test_a_checkpoint_of_another_make_up_is_refused_by_name(tmp_path: Path) -> None:
    train(tmp_path / 'a', model=dict(type='ToyOfTheRunner', parts=('backbone', 'neck')))
    last = str(tmp_path / 'a' / 'epoch_2.pth')

    def resume(**more: Any) -> str:
        runner = build(tmp_path / 'b', resume=True, load_from=last, **more)
        before = runner.model.state_dict()
        with pytest.raises(WrongInput) as error:
            runner.train()
        assert all(torch.equal(before[key], value) for key, value in runner.model.state_dict().items())
        return str(error.value)

    two = dict(type='ToyOfTheRunner', parts=('backbone', 'neck'))
    words = resume()
    assert 'the config has no neck (2); the optimizer has 4 parameters in 1 groups, the config 2 ' in words
    three = dict(type='ToyOfTheRunner', parts=('backbone', 'neck', 'head'))
    assert 'it has no head (2)' in resume(model=three)
    groups = dict(custom_keys={'neck': dict(lr_mult=0.1)})
    wrapper = dict(optimizer=dict(type='SGD', lr=0.1), paramwise_cfg=groups)
    words = resume(model=two, optim_wrapper=wrapper)
    assert 'the optimizer has 1 parameter groups, the config makes 4' in words and 'it has no' not in words
    wrapper = dict(optimizer=dict(type='AdamW', lr=0.1))
    words = resume(model=two, optim_wrapper=wrapper)
    assert 'another type (with momentum, the config with betas)' in words


def test_a_distillation_and_a_plain_training_do_not_go_on_as_each_other(tmp_path: Path, capsys) -> None:
    """As the first would with the config of its student, and the other with that of a distillation of it."""
    train(tmp_path)
    path = tmp_path / 'epoch_3.pth'
    checkpoint = saved(path)
    small = tiny_retinanet()
    losses = dict(pkd=dict(type='mmkd_graph.PKDLoss'))
    distiller = dict(type='mmkd_graph.GraphDistiller', student=small, teacher=dict(config=small, strict=False))

    def resume(began_with: str, **model: Any) -> None:
        checkpoint['meta']['cfg'] = f'model = {began_with}'
        torch.save(checkpoint, path)
        train(tmp_path, resume=True, train_cfg=dict(by_epoch=True, max_epochs=4), default_scope='mmdet', **model)

    crg = "dict(losses=dict(crg=dict(type='mmkd_graph.CRGLoss')))"
    with pytest.raises(WrongInput, match=r"checkpoint of a distillation \(losses crg\), .*'ToyOfTheRunner' is none"):
        resume(crg)
    train(tmp_path / 'other', load_from=str(path))
    with pytest.raises(WrongInput, match=r"checkpoint of a detector alone, and model.type='GraphDistiller' is a dist"):
        resume("dict(type='RetinaNet')", model=dict(distiller, losses=losses))
    with pytest.raises(WrongInput, match='it has no backbone'):  # the toy's weights
        resume(crg, model=dict(distiller, losses=losses))
    assert '--resume: it began with the losses crg, and has pkd now' in ''.join(capsys.readouterr())


def test_a_test_leaves_the_config_of_the_training(tmp_path: Path) -> None:
    mine = tmp_path / 'mine.py'
    mine.touch()
    for folder, kept in ((tmp_path / 'trained', True), (tmp_path / 'new', False)):
        folder.mkdir()
        if kept:
            (folder / mine.name).write_text('model = 1')
        settings = config(folder, runner_type='mmkd_graph.TestingRunner').to_dict()
        MMENGINE_RUNNERS.build(Config(settings, filename=str(mine)))
        assert ((folder / mine.name).read_text() == 'model = 1') is kept


def test_testing_never_resumes(tmp_path: Path) -> None:
    train(tmp_path / 'a')
    best = str(next((tmp_path / 'a').glob('best_*')))
    weight = saved(Path(best))['state_dict']['backbone.weight']
    for load_from in (best, None):  # without one: the last of the work dir
        runner = build(tmp_path / 'a', resume=True, load_from=load_from)
        runner.test()
        assert load_from is None or torch.equal(runner.model.backbone.weight.detach(), weight)
        assert runner._has_loaded


@pytest.mark.parametrize('concatenated', [False, True])
def test_a_checkpoint_is_read_back_whatever_the_data_say_of_themselves(concatenated: bool, tmp_path: Path) -> None:
    """mmengine puts the data set's metainfo, of which mmdet's ConcatDataset has a list, into the meta as it is."""

    def part(camera: str) -> dict:
        extra = dict(camera=camera, since=datetime.date(2024, 5, 1), ids=range(3))
        return dict(type='ToyDataOfTheRunner', serialize_data=False, metainfo=dict(classes=('cat',), source=extra))

    dataset = part('left')
    if concatenated:
        dataset = dict(type='mmdet.ConcatDataset', datasets=[part('left'), part('right')])
    loader = dict(dataset=dataset, batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True))
    train(tmp_path, train_dataloader=loader)
    with weights_only():
        meta = torch.load(tmp_path / 'epoch_3.pth')['meta']
    source = dict(camera='left', since='2024-05-01', ids=[0, 1, 2])
    assert meta['dataset_meta']['classes'] == ('cat',)
    if concatenated:
        assert [one['source']['camera'] for one in meta['dataset_metas']] == ['left', 'right']
        assert 'source' not in meta['dataset_meta']
    else:
        assert meta['dataset_meta']['source'] == source
    runner = build(tmp_path, train_dataloader=loader, resume=True)
    told: list[str] = []
    runner.logger.warning = lambda message, *_, **__: told.append(message)
    runner.train()
    assert runner.epoch == 3 and not [message for message in told if 'metainfo' in message]


# ---------------------------------------------------------------- validations


@pytest.mark.parametrize('by_epoch', [True, False])
def test_a_validation_in_which_a_training_died_is_made_up_for(
    by_epoch: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three, and the last one, after which nothing is left to train; with the best checkpoint."""
    name = 'epoch_{}.pth' if by_epoch else 'iter_{}.pth'
    step = 1 if by_epoch else 2
    whole = train(tmp_path / 'whole', by_epoch, randomness=dict(seed=1))
    for at in (2, 3):
        work = tmp_path / f'work{at}'
        monkeypatch.setattr(ToyMetricOfTheRunner, 'count', 0)
        monkeypatch.setattr(ToyMetricOfTheRunner, 'dies_at', at)
        with pytest.raises(RuntimeError, match='killed'):
            train(work, by_epoch, randomness=dict(seed=1))
        assert len(json.loads((work / 'validated.json').read_text())) == at - 1
        monkeypatch.setattr(ToyMetricOfTheRunner, 'dies_at', 0)
        monkeypatch.setattr(ToyMetricOfTheRunner, 'count', at - 1)
        runner = train(work, by_epoch, resume='auto', randomness=dict(seed=1))
        assert ToyMetricOfTheRunner.count == 3
        assert [path.name for path in work.glob('best_*')] == [f'best_acc_{name.format(3 * step)}']
        last = saved(work / name.format(3 * step))
        assert last['message_hub']['runtime_info']['best_score'] == 3, 'saved again with the new best'
        for one, other in zip(whole.model.parameters(), runner.model.parameters(), strict=True):
            assert torch.equal(one, other)
        train(work, by_epoch, resume='auto')
        assert ToyMetricOfTheRunner.count == 3, 'done once'
    # from an earlier checkpoint, what came after it is not done any more
    monkeypatch.setattr(ToyMetricOfTheRunner, 'dies_at', 4)
    with pytest.raises(RuntimeError, match='killed'):
        train(work, by_epoch, resume=True, load_from=str(work / name.format(step)))
    assert [one['iter'] for one in json.loads((work / 'validated.json').read_text())] == [4 if by_epoch else 2]


@pytest.mark.parametrize(
    ('length', 'wanted'),
    [
        (dict(by_epoch=True, max_epochs=3, val_begin=3), 0),
        (dict(by_epoch=True, max_epochs=3, val_interval=2), 1),
        (dict(by_epoch=True, max_epochs=9, val_interval=5, dynamic_intervals=[(2, 2)]), 1),
        (dict(by_epoch=True, max_epochs=9, val_interval=2, dynamic_intervals=[(2, 5)]), 0),
    ],
)
def test_which_validations_are_due(length: dict, wanted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the second epoch, as mmengine's loop has it, which is asked too."""
    stop = RuntimeError('stopped')

    def at_epoch_two(self: Any, runner: Runner) -> None:
        if runner.epoch == 2:
            raise stop

    train(tmp_path, train_cfg=dict(by_epoch=True, max_epochs=2, val_begin=9))
    from mmkd_graph.hooks import IterationSeedHook

    monkeypatch.setattr(IterationSeedHook, 'before_train_epoch', at_epoch_two)
    with pytest.raises(RuntimeError, match='stopped'):
        train(tmp_path, train_cfg=length, resume='auto')
    assert ToyMetricOfTheRunner.count == wanted
    monkeypatch.setattr(ToyMetricOfTheRunner, 'count', 0)
    whole = tmp_path / 'whole'
    with pytest.raises(RuntimeError, match='stopped'):
        train(whole, train_cfg=length)
    validated = json.loads((whole / 'validated.json').read_text()) if (whole / 'validated.json').exists() else []
    assert (8 in [one['iter'] for one in validated]) == bool(wanted)


@pytest.mark.parametrize('by_epoch', [True, False])
def test_the_last_lines_are_those_of_the_whole_training(
    by_epoch: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in its second validation, whose checkpoint the rest goes on from; after that nothing is better."""
    told: list[str] = []
    monkeypatch.setattr(TrainingSummaryHook, 'after_train', lambda self, runner: told.extend(summary(runner)))
    hook = [dict(type='mmkd_graph.TrainingSummaryHook')]
    monkeypatch.setattr(ToyMetricOfTheRunner, 'dies_at', 2)
    with pytest.raises(RuntimeError, match='killed'):
        train(tmp_path, by_epoch, custom_hooks=hook)
    assert not told, 'an interrupted training has no result'
    monkeypatch.setattr(ToyMetricOfTheRunner, 'count', -9)
    train(tmp_path, by_epoch, custom_hooks=hook, resume='auto')
    when, name = ('epoch {}', 'epoch_{}.pth') if by_epoch else ('iteration {}', 'iter_{}.pth')
    first, last = (1, 3) if by_epoch else (2, 6)
    assert told[0] == f'acc: best 1.0000 at {when.format(first)}, last -7.0000 at {when.format(last)}'
    checkpoints = next(line for line in told if line.startswith('checkpoint: '))
    assert f'{name.format(last)} (last)' in checkpoints and f'best_acc_{name.format(first)} (best)' in checkpoints
    again = list(told)
    told.clear()
    train(tmp_path, by_epoch, custom_hooks=hook, resume='auto')
    # every start keeps its own copy of the config, named after the second
    told, again = ([re.sub(r'\d{8}_\d{6}\.py', 'CONFIG', line) for line in lines] for lines in (told, again))
    assert told == again, 'nothing was left to train'


def test_a_schedule_that_reads_the_metric_gets_it_again(tmp_path: Path) -> None:
    """Its checkpoint was written before the validation."""
    schedule = [dict(type='ReduceOnPlateauLR', monitor='acc', rule='greater', patience=0)]
    train(tmp_path, param_scheduler=schedule)
    train(tmp_path, param_scheduler=schedule, resume='auto')
    assert ToyMetricOfTheRunner.count == 4


# ---------------------------------------------------------------- files and folders


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_weights_that_would_run_code_are_refused_unless_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = tmp_path / 'evil.pth'
    state = {'backbone.weight': torch.ones(1, 2), 'backbone.bias': torch.ones(1)}
    torch.save(dict(state_dict=state, meta={}, evil=Evil(tmp_path / 'made')), evil)
    with pytest.raises(WrongInput, match=r'load_from: .*evil.pth: it holds more than weights \(posix.mkdir\).*--trust'):
        train(tmp_path / 'a', load_from=str(evil))
    with pytest.raises(WrongInput, match=r'evil\.pth: it holds more than weights'):
        build(tmp_path / 'a', load_from=str(evil)).test()
    pretrained = dict(type='Pretrained', checkpoint=str(evil))
    with pytest.raises(WrongInput, match=r"^model\.init_cfg\.checkpoint='.*evil.pth' was not read: it holds more"):
        train(tmp_path / 'a', model=dict(type='ToyOfTheRunner', init_cfg=pretrained))
    assert not (tmp_path / 'made').exists()
    for name in (TRUST, 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'):
        monkeypatch.setenv(name, '1')
    train(tmp_path / 'a', load_from=str(evil))
    assert (tmp_path / 'made').exists()


@pytest.mark.parametrize(
    ('name', 'words'), [('missing.pth', 'no such file'), ('folder', 'a folder'), ('binary', 'no checkpoint')]
)
def test_what_is_no_file_of_weights_is_named(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'binary').write_bytes(bytes(range(256)) * 9)
    with pytest.raises(WrongInput, match=rf'load_from: .*{name}: .*{words}'):
        train(tmp_path / 'a', load_from=str(tmp_path / name))


def test_weights_that_cannot_be_downloaded_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError(OSError(-2, 'Name or service not known'))

    monkeypatch.setattr('torch.hub.urlopen', refuse)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    url = 'https://weights.example/some.pth'
    told = 'no connection to weights.example: download it .*, or set {} to the path of a copy'
    with pytest.raises(WrongInput, match=f"^load_from='{url}': {told.format('load_from')}"):
        train(tmp_path / 'a', load_from=url)
    pretrained = dict(type='Pretrained', checkpoint=url)
    with pytest.raises(
        MissingWeights, match=f"^model.init_cfg.checkpoint='{url}': {told.format('model.init_cfg.checkpoint')}"
    ):
        train(tmp_path / 'a', model=dict(type='ToyOfTheRunner', init_cfg=pretrained))


def test_a_work_dir_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(NotStarted, match=r'work dir .*file/work cannot be written: Not a directory') as error:
        build(tmp_path / 'file' / 'work')
    assert error.value.code == 1

    def full(**_: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(tempfile, 'TemporaryFile', full)
    with pytest.raises(NotStarted, match='cannot be written: No space left'):
        build(tmp_path / 'work')


def test_annotations_stop_a_training_and_not_a_test(tmp_path: Path) -> None:
    dataset = dict(type='mmdet.CocoDataset', ann_file='missing.json', data_root=str(tmp_path))
    loader = dict(dataset=dataset, batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler'))
    with pytest.raises(WrongInput, match=r'1 errors.*missing.json: there is no such file') as error:
        train(tmp_path / 'a', train_dataloader=loader)
    assert error.value.code == 2
    build(tmp_path / 'a', train_dataloader=loader).test()


def test_one_training_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmkd_graph.engine import runner as module

    class Held:
        def __init__(self, folder: str) -> None:
            pass

        def acquire(self, say: Any) -> bool:
            raise NotStarted('another training is running')

        def release(self) -> None:
            pass

    monkeypatch.setattr(module, 'WorkDirLock', Held)
    with pytest.raises(NotStarted, match='another training'):
        train(tmp_path)
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.parametrize('waited', [True, False])
def test_a_start_goes_on_from_what_was_saved_before_it_got_the_lock(
    waited: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another training may have ended before the lock was asked for."""
    from mmkd_graph.engine import runner as module

    first = build(tmp_path, train_cfg=dict(by_epoch=True, max_epochs=2))
    second = build(tmp_path, resume='auto')

    class Waits(module.WorkDirLock):
        def acquire(self, say: Any) -> bool:
            monkeypatch.undo()
            first.train()
            return waited

    monkeypatch.setattr(module, 'WorkDirLock', Waits)
    second.train()
    assert second.seed == first.seed and second._resume and second.epoch == 3
