"""Hooks that a config lost or that never begin, and those that cannot be built."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config

from mmkd_graph.checking import FAIL, WARNING
from mmkd_graph.checking.custom_hooks import check_custom_hooks, check_schedule, lost_hooks

EMA = "dict(type='EMAHook')"
SWITCH = "dict(type='PipelineSwitchHook', switch_epoch=8, switch_pipeline=[])"
EXPORT = "dict(type='mmkd_graph.StudentExportHook')"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A detector with hooks of its own, and configs that are made of it."""
    for name, text in dict(
        data='train_cfg = dict(max_epochs=10)',
        detector=f'custom_hooks = [{EMA}, {SWITCH}]',
        replaced=f"_base_ = ['data.py', 'detector.py']\ncustom_hooks = [{EXPORT}, {EMA}]",
        kept=f"_base_ = ['data.py', 'detector.py']\ncustom_hooks = [*_base_.custom_hooks, {EXPORT}]",
        emptied="_base_ = 'detector.py'\ncustom_hooks = []",
        heir="_base_ = 'replaced.py'\nrandomness = dict(seed=1)",
        repaired=f"_base_ = 'replaced.py'\ncustom_hooks = [{EMA}, {SWITCH}]",
    ).items():
        (tmp_path / f'{name}.py').write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ('name', 'lost'),
    [
        ('replaced', ['PipelineSwitchHook']),
        ('heir', ['PipelineSwitchHook']),
        ('kept', []),
        ('emptied', []),
        ('detector', []),
        ('repaired', ['StudentExportHook']),
    ],
)
def test_hooks_that_a_list_replaced_are_named(files: Path, name: str, lost: list[str]) -> None:
    cfg = Config.fromfile(files / f'{name}.py')
    assert lost_hooks(cfg) == lost
    found = [finding for finding in check_schedule(cfg) if finding.key == 'custom_hooks']
    assert [finding.level for finding in found] == [WARNING] * bool(lost)
    if lost:
        assert f'{lost[0]} of the base config' in str(found[0])
        assert 'write custom_hooks = [*_base_.custom_hooks, dict(type=…)]' in str(found[0])
        cfg.custom_hooks.append(dict(type=lost[0]))  # as a tool or an option may
        assert not [finding for finding in check_schedule(cfg) if finding.key == 'custom_hooks']


def test_what_cannot_be_read_again_is_no_reason_to_stop(files: Path) -> None:
    cfg = Config.fromfile(files / 'replaced.py')
    (files / 'detector.py').write_text('1 / 0')
    assert lost_hooks(cfg) == [] == lost_hooks(Config(dict(custom_hooks=[])))


@pytest.mark.parametrize(
    ('hook', 'training', 'words'),
    [
        (dict(switch_epoch=10), dict(max_epochs=10), 'switch_epoch=10, but the training ends after 10 epochs'),
        (dict(switch_epoch=9), dict(max_epochs=10), ''),
        (dict(switch_epoch=9), dict(max_iters=900), 'switch_epoch=9, but train_cfg counts iterations'),
        (dict(begin_epoch=0), dict(max_iters=900), ''),
        (dict(begin_epoch=20), dict(max_epochs=10), 'begin_epoch=20, but the training ends'),
        (dict(begin_iter=900), dict(max_iters=900), 'begin_iter=900, but the training ends after 900 iterations'),
        (dict(num_last_epochs=15), dict(max_epochs=12), 'num_last_epochs=15, but the training has only 12 epochs'),
        (dict(num_last_epochs=15), dict(max_epochs=300), ''),
    ],
)
def test_hooks_that_come_too_late(hook: dict, training: dict, words: str) -> None:
    findings = check_schedule(
        Config(dict(custom_hooks=[dict(type='a.Other'), dict(hook, type='b.Hook')], train_cfg=training))
    )
    assert len(findings) == bool(words)
    for finding in findings:
        assert str(finding).startswith(f'warning  custom_hooks[1] (Hook): {words}')


def test_every_hook_is_built() -> None:
    hooks = [
        dict(type='mmkd_graph.StudentExportHook'),
        dict(type='mmkd_graph.LossScheduleHook', priority='LOW', polcy='cosine'),
        dict(type='EMAHok'),
        dict(type='mmkd_graph.LossScheduleHook', policy='cosin'),
    ]
    cfg = Config(dict(custom_hooks=hooks))
    findings = check_custom_hooks(cfg)
    assert cfg.custom_hooks == hooks and {finding.level for finding in findings} == {FAIL}
    unknown, unregistered, wrong = map(str, findings)
    assert 'custom_hooks[1] (LossScheduleHook): ' in unknown and "did you mean 'policy'?); it takes losses, " in unknown
    assert 'custom_hooks[2] (EMAHok): ' in unregistered and "did you mean 'EMAHook'?" in unregistered
    assert 'import-the-custom-module' not in unregistered
    assert (
        "custom_hooks[3] (LossScheduleHook): policy: got 'cosin'" in wrong and "'constant', 'linear', 'cosine'" in wrong
    )


@pytest.mark.parametrize(
    ('training', 'hook', 'words'),
    [
        (
            dict(max_iters=400),
            dict(by_epoch=False, interval=500),
            'interval=500, and the training takes 400 iterations',
        ),
        (dict(max_epochs=12), dict(interval=12), 'interval=12, and the training takes 12 epochs'),
        (dict(max_epochs=12), dict(), 'interval=-1, and the training takes 12 epochs'),
        (dict(max_iters=400), dict(interval=1), 'interval=1, by_epoch=True, and the training takes 400 iterations'),
        (dict(max_iters=400), dict(by_epoch=False, interval=100), ''),
        (dict(max_epochs=12), dict(interval=1), ''),
        (dict(max_epochs=1), dict(interval=1), ''),
        (dict(max_epochs=12), dict(by_epoch=False, interval=100), ''),
    ],
    ids=str,
)
def test_a_training_without_a_checkpoint_before_its_end(training: dict, hook: dict, words: str) -> None:
    for kind in ('CheckpointHook', 'mmkd_graph.SafeCheckpointHook'):
        hooks = dict(checkpoint=dict(type=kind, **hook))
        findings = check_schedule(Config(dict(train_cfg=training, default_hooks=hooks)))
        assert [x.key for x in findings] == ['default_hooks.checkpoint.interval'] * bool(words)
        assert all(words in x.found and 'no checkpoint is written before its end' in x.found for x in findings)
