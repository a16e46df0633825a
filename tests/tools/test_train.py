"""What ``tools/train.py`` makes of a config before it trains; the trainings themselves are in test_robustness.py."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import import_tool
from mmdet.datasets.samplers import TrackImgSampler
from mmengine.config import Config

from mmkd_graph.engine.errors import WrongInput
from mmkd_graph.engine.guards import guard
from mmkd_graph.engine.launch import apply_training_options


@pytest.fixture(scope='module')
def train() -> ModuleType:
    return import_tool('train')


def config(work_dir: Path, **more: object) -> Config:
    return Config(dict(work_dir=str(work_dir), launcher='none', **more))


@pytest.mark.parametrize('kind', ['TrackImgSampler', 'mmdet.TrackImgSampler', TrackImgSampler])
def test_samplers_that_give_no_indices_are_not_wrapped(tmp_path: Path, kind: object) -> None:
    cfg = config(tmp_path, train_dataloader=dict(sampler=dict(type=kind)))
    guard(cfg)
    assert cfg.train_dataloader.sampler.type is kind or cfg.train_dataloader.sampler.type == kind
    cfg = config(tmp_path, train_dataloader=dict(sampler=dict(type='DefaultSampler')))
    guard(cfg)
    assert cfg.train_dataloader.sampler.type == 'mmkd_graph.SeededSampler'


def test_another_runner_gets_what_it_can_get(train: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """mmengine's ``FlexibleRunner``: its config is made resumable, guarded, and looked through."""
    content = dict(meta=dict(iter=4, seed=11), state_dict={}, optimizer={}, message_hub={})
    torch.save(content, tmp_path / 'iter_4.pth')
    (tmp_path / 'last_checkpoint').mkdir()
    cfg = config(tmp_path, runner_type='FlexibleRunner', resume='auto', load_from='weights.pth')
    train.guard_other_runner(cfg)
    assert (cfg.resume, cfg.load_from, cfg.randomness.seed) == (True, str(tmp_path / 'iter_4.pth'), 11)
    assert cfg.default_hooks.checkpoint.type == 'mmkd_graph.SafeCheckpointHook'
    assert 'passed over' in capsys.readouterr().err
    dataset = dict(type='CocoDataset', ann_file='missing.json', data_root=str(tmp_path))
    cfg = config(tmp_path, runner_type='FlexibleRunner', train_dataloader=dict(dataset=dataset))
    with pytest.raises(WrongInput, match='the data sets have 1 errors'):
        train.guard_other_runner(cfg)
    assert 'missing.json: there is no such file' in capsys.readouterr().err


def test_options_become_settings_of_the_runner(
    train: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def applied(*words: str) -> Config:
        monkeypatch.setattr(sys, 'argv', ['train.py', 'config.py', *words])
        cfg = config(tmp_path, load_from='weights.pth')
        apply_training_options(cfg, train.parse_args())
        return cfg

    cfg = applied('--resume')
    assert cfg.resume == 'auto' and cfg.load_from == 'weights.pth'
    (tmp_path / 'iter_2.pth').touch()
    cfg = applied('--resume', str(tmp_path / 'iter_2.pth'))
    assert cfg.resume is True and cfg.load_from == str(tmp_path / 'iter_2.pth')
    assert applied('--no-check').get('resume') is None


@pytest.mark.parametrize(
    ('error', 'code', 'words'),
    [
        (WrongInput('annotations are broken'), 2, 'error: annotations are broken'),
        (FloatingPointError('the loss is not finite'), 1, 'there is no checkpoint to go on from yet'),
        (OSError(28, 'No space left'), 1, 'no space is left on the disk'),
        (
            RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. '),
            1,
            'is killed by signal: Killed; often: no memory',
        ),
        (OSError(2, 'No such file'), None, ''),
    ],
)
def test_what_is_known_to_go_wrong_ends_in_a_line(
    error: Exception, code: int | None, words: str, train: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit if code else OSError) as end:
        train.end(error, config(tmp_path))
    assert code is None or end.value.code == code
    told = capsys.readouterr().err
    assert words in told and told.count('\n') == bool(code)
