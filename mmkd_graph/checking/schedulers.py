"""Whether the schedules of the learning rate come to their end within the training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from mmkd_graph.findings import WARNING, Finding
from mmkd_graph.registry import type_name


def number(value: Any) -> float | None:
    """A number of a config; None for anything else."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def training_length(cfg: Config) -> tuple[float | None, float | None]:
    """Epochs and iterations that ``train_cfg`` asks for; None for what it does not count."""
    training = cfg.get('train_cfg') or {}
    return number(training.get('max_epochs')), number(training.get('max_iters'))


def check_schedulers(cfg: Config, epoch_length: int | None) -> list[Finding]:
    """Compare every entry of ``param_scheduler`` with the length of the training.

    Args:
        cfg: a whole config.
        epoch_length: iterations of an epoch on every rank; None if it is not known.
    """
    given = cfg.get('param_scheduler') or []
    entries = [given] if isinstance(given, Mapping) else given
    epochs, iterations = training_length(cfg)
    if epochs and not iterations and epoch_length:
        iterations = epochs * epoch_length
    lengths = dict(epochs=epochs, iterations=iterations)
    return [
        finding
        for i, entry in enumerate(entries)
        if isinstance(entry, Mapping) and 'type' in entry
        for finding in _check(f'param_scheduler[{i}] ({type_name(entry["type"])})', entry, lengths)
    ]


def _check(key: str, entry: Mapping[str, Any], lengths: Mapping[str, float | None]) -> Iterator[Finding]:
    unit = 'epochs' if entry.get('by_epoch', True) else 'iterations'
    last = lengths[unit]
    if unit == 'epochs' and not last and lengths['iterations']:
        found = 'by_epoch=True, but train_cfg counts iterations: the learning rate stays where it starts'
        yield Finding(WARNING, key, found, 'set by_epoch=False, and its lengths in iterations')
    if not last:
        return
    begin, end = entry.get('begin') or 0, entry.get('end') or math.inf
    length = f'the training ends after {last:g} {unit}'
    if begin >= last:
        yield Finding(WARNING, key, f'begin={begin}, but {length}: it never begins', f'set it below {last:g}')
        return
    # a schedule counts from its own begin
    if late := [step for step in entry.get('milestones') or () if begin + step >= last]:
        found = f'milestones={list(entry["milestones"])}, but {length}: of {late} nothing comes'
        yield Finding(WARNING, key, found, f'set them below {last - begin:g}')
        return
    option = 'T_max' if entry.get('T_max') else 'end'
    complete = begin + entry['T_max'] if option == 'T_max' else end
    if last < complete < math.inf and 'milestones' not in entry:
        found = f'{option}={entry[option]}, but {length}, in the middle of it'
        most = last - begin if option == 'T_max' else last
        yield Finding(WARNING, key, found, f'set it to {most:g} at most')
