"""Hooks that cannot be built, that a config lost, or that come to work after the training's end."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import HOOKS

from mmkd_graph.findings import FAIL, WARNING, Finding
from mmkd_graph.packaged import own_configs
from mmkd_graph.registry import type_name

from .origins import explained, hook_key, located
from .schedulers import number, training_length

_BEGIN = dict(switch_epoch='epochs', begin_epoch='epochs', begin_iter='iterations')
"""Options of hooks that say when they begin, and in what."""


def check_custom_hooks(cfg: Config) -> list[Finding]:
    """Build every one of ``custom_hooks``, and compare them with the training and with the base files' hooks."""
    findings = []
    for i, hook in enumerate(_hooks(cfg)):
        options = {key: value for key, value in copy.deepcopy(dict(hook)).items() if key != 'priority'}
        try:
            HOOKS.build(options)
        except Exception as error:  # hooks of any kind
            key = hook_key(i, hook)
            found = located(explained(error), cfg, key).removeprefix(f'{key}: ')
            findings.append(Finding(FAIL, key, found, 'correct the config'))
    return [*findings, *check_schedule(cfg)]


def check_schedule(cfg: Config) -> list[Finding]:
    """What is cheap to find out, and no failure: hooks that were lost, and hooks that do nothing in this training."""
    findings = [*_late(cfg), *_unsaved(cfg)]
    if lost := [name for name in lost_hooks(cfg) if name not in _names(cfg)]:
        what = f'{", ".join(lost)} of the base config {"is" if len(lost) == 1 else "are"} gone'
        advice = 'to keep what is inherited, write custom_hooks = [*_base_.custom_hooks, dict(type=…)]'
        found = f'{what}, as a list replaces a list'
        findings.insert(0, Finding(WARNING, 'custom_hooks', found, advice, dict(lost=lost)))
    return findings


def _hooks(cfg: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [hook for hook in cfg.get('custom_hooks') or [] if isinstance(hook, Mapping) and 'type' in hook]


def _names(cfg: Mapping[str, Any]) -> list[str]:
    return [type_name(hook['type']) for hook in _hooks(cfg)]


def lost_hooks(cfg: Config) -> list[str]:
    """Kinds of hooks that a config file's bases have and that its own ``custom_hooks`` do not repeat.

    Nothing is said of an empty list, which nobody writes by mistake, nor of what cannot be read again.
    """
    try:
        with own_configs():
            return _lost_in(cfg.filename) if cfg.filename else []
    except Exception:  # the file may be gone by now, or the base may be another program
        return []


def _lost_in(filename: str) -> list[str]:
    bases = Config._get_base_files(filename)
    own = _names(Config.fromfile(filename, import_custom_modules=False)) if bases else []
    if not own:
        return []
    lost = []
    for base in bases:
        path = Config._get_cfg_path(base, filename)[0]
        inherited = _names(Config.fromfile(path, import_custom_modules=False))
        if inherited == own:  # whoever replaced them did so further down
            return _lost_in(path)
        lost += [name for name in inherited if name not in own]
    return lost


def _late(cfg: Config) -> list[Finding]:
    findings = []
    epochs, iterations = training_length(cfg)
    for i, hook in enumerate(_hooks(cfg)):
        key = hook_key(i, hook)
        for option, unit in _BEGIN.items():
            begin = number(hook.get(option))
            last = iterations if unit == 'iterations' else epochs
            if not begin:
                continue
            if last is not None and begin >= last:
                found = f'{option}={begin}, but the training ends after {last} {unit}: it never begins'
                findings.append(Finding(WARNING, key, found, f'set it below {last}'))
            elif unit == 'epochs' and iterations and not epochs:
                found = f'{option}={begin}, but train_cfg counts iterations: it never begins'
                findings.append(Finding(WARNING, key, found, 'train by epochs, or leave the hook out'))
        last = number(hook.get('num_last_epochs'))
        if last is not None and epochs is not None and last >= epochs:
            found = f'num_last_epochs={last}, but the training has only {epochs} epochs: it begins with the first one'
            findings.append(Finding(WARNING, key, found, f'set it below {epochs}'))
    return findings


def _unsaved(cfg: Config) -> list[Finding]:
    """Whether a training would leave no checkpoint to resume from before its end."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint')
    if not isinstance(hook, Mapping) or type_name(hook.get('type')) not in ('CheckpointHook', 'SafeCheckpointHook'):
        return []
    by_epoch, interval = hook.get('by_epoch', True), number(hook.get('interval', -1))
    epochs, iterations = training_length(cfg)
    last, unit = (epochs, 'epochs') if by_epoch else (iterations, 'iterations')
    if interval is None or (last is None and not (by_epoch and iterations)):
        return []
    if last is not None and (0 < interval < last or last == 1):
        return []
    words = f'interval={interval}' + (', by_epoch=True' if last is None else '')
    length = f'{last} {unit}' if last is not None else f'{iterations} iterations, which count as one epoch'
    found = f'{words}, and the training takes {length}: no checkpoint is written before its end'
    advice = 'set by_epoch=False and an interval' if last is None else f'set it below {last} to be able to resume'
    return [Finding(WARNING, 'default_hooks.checkpoint.interval', found, advice)]
