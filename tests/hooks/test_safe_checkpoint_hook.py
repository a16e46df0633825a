"""The order of writing and removing, and what is not written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from torch import nn

from mmkd_graph.hooks import SafeCheckpointHook


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def train_step(self, data: Any, optim_wrapper: Any) -> dict:
        optim_wrapper.update_params((self.weight * data).sum())
        return {}

    def val_step(self, data: Any) -> list:
        return []


def run(tmp_path: Path, hook: type, **options: Any) -> None:
    loader = dict(dataset=[torch.ones(2)] * 4, sampler=dict(type='DefaultSampler', shuffle=False), batch_size=1)
    loader['collate_fn'] = dict(type='default_collate')
    Runner(
        Toy(),
        str(tmp_path),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=3),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(logger=None, timer=None, checkpoint=hook(interval=1, **options)),
        experiment_name=f'{tmp_path.parent.name}-{tmp_path.name}',
    ).train()


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[bool]:
    """Whether a checkpoint was there, each time that one was going to be written after the first."""
    there = []
    save = Runner.save_checkpoint

    def look(self: Runner, *args: Any, **kwargs: Any) -> None:
        if self.epoch:
            there.append(any(tmp_path.glob('epoch_*.pth')))
        save(self, *args, **kwargs)

    monkeypatch.setattr(Runner, 'save_checkpoint', look)
    return there


@pytest.mark.parametrize('hook', [CheckpointHook, SafeCheckpointHook])
def test_the_last_checkpoint_is_there_until_the_next_one_is(hook: type, tmp_path: Path, always: list[bool]) -> None:
    """mmengine's own hook shows that the test could fail."""
    run(tmp_path, hook, max_keep_ckpts=1)
    assert always == [hook is SafeCheckpointHook] * 2
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_3.pth']


def test_nothing_is_removed_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmkd_graph import checkpoints

    write = checkpoints.write_whole

    def second_fails(content: bytes, path: str) -> None:
        if 'epoch_2' in str(path):
            raise OSError(28, 'No space left on device')
        write(content, path)

    monkeypatch.setattr(checkpoints, 'write_whole', second_fails)
    with pytest.raises(OSError, match='No space'):
        run(tmp_path, SafeCheckpointHook, max_keep_ckpts=1)
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_1.pth']


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(self: Toy, data: Any, optim_wrapper: Any) -> dict:
        with torch.no_grad():
            self.weight[0] = float('nan')
        return {}

    monkeypatch.setattr(Toy, 'train_step', spoilt)
    with pytest.raises(FloatingPointError, match='NaN or infinite at iteration 4 and were not saved: weight'):
        run(tmp_path, SafeCheckpointHook)
    assert not list(tmp_path.glob('*.pth'))


def test_other_storages_are_left_to_mmengine() -> None:
    assert SafeCheckpointHook().backend_args == dict(backend='mmkd_graph.whole')
    assert SafeCheckpointHook(out_dir='s3://bucket').backend_args is None
    assert SafeCheckpointHook(backend_args=dict(backend='local')).backend_args == dict(backend='local')


def test_validation_alone_needs_no_folder() -> None:
    SafeCheckpointHook().after_val_epoch(None, metrics=dict(loss=1.0))


def test_weights_to_start_from_bring_no_gradients() -> None:
    """A checkpoint from the middle of an accumulation, given as load_from."""
    runner = SimpleNamespace(_resume=False, model=Toy())
    checkpoint = dict(state_dict={}, gradients=dict(weight=torch.ones(2)))
    SafeCheckpointHook().after_load_checkpoint(runner, checkpoint)
    assert runner.model.weight.grad is None
    runner._resume = True
    SafeCheckpointHook().after_load_checkpoint(runner, checkpoint)
    assert torch.equal(runner.model.weight.grad, torch.ones(2))


def test_another_number_of_processes_is_told(tmp_path: Path) -> None:
    """Also where no rank had buffers of its own; a checkpoint of mmengine's says nothing and is taken as it is."""
    run(tmp_path, SafeCheckpointHook)
    checkpoint = torch.load(tmp_path / 'epoch_3.pth', weights_only=False)
    told: list[str] = []
    runner = SimpleNamespace(_resume=True, model=Toy(), logger=SimpleNamespace(warning=told.append))
    SafeCheckpointHook().after_load_checkpoint(runner, checkpoint)
    assert told == []
    checkpoint['meta']['processes'] = 4
    SafeCheckpointHook().after_load_checkpoint(runner, checkpoint)
    assert len(told) == 1 and told[0].startswith('1 processes resume a run of 4: the batches are others')
    del checkpoint['meta']['processes']
    SafeCheckpointHook().after_load_checkpoint(runner, checkpoint)
    assert len(told) == 1
