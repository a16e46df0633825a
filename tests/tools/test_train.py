"""What ``tools/train.py`` makes of a config before it trains; the trainings themselves are in test_robustness.py."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from conftest import import_tool
from mmdet.datasets.samplers import TrackImgSampler
from mmengine.config import Config


@pytest.fixture(scope='module')
def train() -> ModuleType:
    return import_tool('train')


def config(work_dir: Path, **more: object) -> Config:
    return Config(dict(work_dir=str(work_dir), launcher='none', **more))


def test_a_checkpoint_on_a_remote_storage_is_left_to_mmengine(train: ModuleType, tmp_path: Path) -> None:
    """It can not be looked through here, and it is not missing."""
    (tmp_path / 'last_checkpoint').write_text('s3://bucket/run/epoch_3.pth')
    cfg = config(tmp_path)
    train.resume(cfg, 'auto')
    assert cfg.resume is True and cfg.load_from == 's3://bucket/run/epoch_3.pth'


def test_a_sharded_checkpoint_can_be_named(train: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / 'iter_10.pth'
    folder.mkdir()
    cfg = config(tmp_path)
    train.resume(cfg, str(folder))
    assert cfg.resume is True and cfg.load_from == str(folder)
    with pytest.raises(SystemExit):
        train.resume(cfg, str(tmp_path / 'iter_20.pth'))
    assert 'no checkpoint file' in capsys.readouterr().err


@pytest.mark.parametrize('kind', ['TrackImgSampler', 'mmdet.TrackImgSampler', TrackImgSampler])
def test_samplers_that_give_no_indices_are_not_wrapped(train: ModuleType, tmp_path: Path, kind: object) -> None:
    cfg = config(tmp_path, train_dataloader=dict(sampler=dict(type=kind)))
    train.make_resumable(cfg)
    assert cfg.train_dataloader.sampler.type is kind or cfg.train_dataloader.sampler.type == kind
    cfg = config(tmp_path, train_dataloader=dict(sampler=dict(type='DefaultSampler')))
    train.make_resumable(cfg)
    assert cfg.train_dataloader.sampler.type == 'mmkd_graph.SeededSampler'


def test_errors_of_reading_and_losses_name_their_images(train: ModuleType, tmp_path: Path) -> None:
    cfg = config(tmp_path)
    train.make_resumable(cfg)
    assert {'mmkd_graph.UnreadableImageHook', 'mmkd_graph.NonFiniteLossHook'} <= {x.type for x in cfg.custom_hooks}


def test_broken_annotations_stop_a_training_unless_it_is_to_start_all_the_same(
    train: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    dataset = dict(type='CocoDataset', ann_file='missing.json', data_root=str(tmp_path))
    cfg = config(tmp_path, train_dataloader=dict(dataset=dataset))
    with pytest.raises(SystemExit):
        train.check_data(cfg, fatal=True)
    capsys.readouterr()
    train.check_data(cfg, fatal=False)
    assert 'missing.json: there is no such file' in capsys.readouterr().err
