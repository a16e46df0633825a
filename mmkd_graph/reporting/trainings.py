"""What trainings left in their work dirs: config, curves, checkpoints, and which part each of them played."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmkd_graph.checking.accuracy import average_precision
from mmkd_graph.distillers.teacher import model_of, resolve_model_config
from mmkd_graph.engine.resuming import named_checkpoint
from mmkd_graph.engine.runs import read_scalars
from mmkd_graph.hooks.validations import read_validations
from mmkd_graph.registry import type_name

History = dict[str, list[list[float]]]
"""(iteration, value) pairs by name, ascending."""

DISTILLED, ALONE, TEACHER, OTHER = 'distilled student', 'student alone', 'teacher', 'another, in the curves alone'


class ReportError(ValueError):
    """What was given cannot be reported on; the message is one line."""


@dataclass(frozen=True)
class Training:
    """A training, as its work dir has it.

    Attributes:
        folder: the work dir.
        config: its whole config.
        terms: what was logged while training.
        metrics: what validations gave.
        role: ``DISTILLED``, ``ALONE``, ``TEACHER`` or ``OTHER``.
    """

    folder: Path
    config: Config
    terms: History = field(repr=False)
    metrics: History = field(repr=False)
    role: str = OTHER

    @property
    def label(self) -> str:
        """What it is called in pictures."""
        return self.folder.name if self.role == OTHER else f'{self.role} ({self.folder.name})'

    @property
    def averaged(self) -> bool:
        """Whether its checkpoints hold averaged weights: mmengine's ``EMAHook`` saves those under the plain names."""
        return any('EMAHook' in type_name(hook['type']) for hook in self.config.get('custom_hooks') or [])

    def checkpoint(self, which: str) -> Path | None:
        """The newest ``best_*.pth`` if ``which`` is ``'best'`` and there is one, or the last one; None without any."""
        best = sorted(self.folder.glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
        if which == 'best' and best:
            return best[-1]
        named = self.folder / Path(named_checkpoint(self.folder) or 'none').name  # also where the folder was moved
        if named.is_file():
            return named
        saved = [path for path in self.folder.glob('*.pth') if re.fullmatch(r'(iter|epoch)_\d+', path.stem)]
        return max(saved, key=lambda path: int(path.stem.split('_')[1]), default=None)


def read_training(folder: Path) -> Training:
    """Read a work dir; its role is not known yet.

    Raises:
        ReportError: if it is not there, or has no ``<time>/vis_data/scalars.json`` with a config beside it.
    """
    if not folder.is_dir():
        raise ReportError(f'work dir {folder} does not exist')
    logs = sorted(folder.glob('*/vis_data/scalars.json'))
    if not logs:
        raise ReportError(
            f'work dir {folder} has no <time>/vis_data/scalars.json; accepted: the work dir of a training whose '
            'visualizer has the LocalVisBackend'
        )
    configs = [path for path in (log.with_name('config.py') for log in logs) if path.is_file()]
    if not configs:
        raise ReportError(f'work dir {folder} has no config.py beside {logs[-1]}')
    try:
        config = Config.fromfile(configs[-1])
    except Exception as error:  # a config is a program: it may raise anything
        raise ReportError(f'{configs[-1]} cannot be read: {type(error).__name__}: {error}') from error
    if 'model' not in config:
        raise ReportError(f'{configs[-1]} has no model')
    terms, validations = _read_logs(logs)
    if not terms:
        raise ReportError(f'{logs[-1]} has no line of a training yet')
    metrics: History = {}
    for iteration, row in zip(_iterations(folder, validations), (row for _, row in validations), strict=True):
        for name, value in row.items():
            metrics.setdefault(name, []).append([iteration, value])
    return Training(folder, config, terms, metrics)


def _read_logs(logs: Sequence[Path]) -> tuple[History, list[tuple[int, dict[str, float]]]]:
    """What was logged over all interruptions; validations with the last iteration that was logged before them."""
    training: dict[int, dict[str, float]] = {}
    validations: list[tuple[int, dict[str, float]]] = []
    for log in logs:
        now = 0
        for row in read_scalars(log):
            # with log_processor.log_with_hierarchy the names have the mode in front
            row = {re.sub('^(train|val)/', '', k): v for k, v in row.items() if isinstance(v, (int, float))}
            if 'iter' in row:
                if not now:  # a resumed training does again what came after its checkpoint, a new one everything
                    begin = row['iter'] if training and row['iter'] > min(training) else 0
                    training = {i: x for i, x in training.items() if i < begin}
                    validations = [x for x in validations if x[0] < begin]
                now = int(row['iter'])
                training[now] = row
            elif any('/' in name for name in row):
                names = [name for name in row if name not in ('step', 'time', 'data_time')]
                validations.append((now or max(training, default=0), {name: row[name] for name in names}))
    terms: History = {}
    for iteration in sorted(training):
        for name, value in training[iteration].items():
            if name not in ('iter', 'step', 'epoch'):
                terms.setdefault(name, []).append([iteration, value])
    return terms, validations


def _iterations(folder: Path, validations: Sequence[tuple[int, Any]]) -> list[int]:
    """When each validation was: the log has no iteration of it, but this package's trainings note it beside."""
    logged = [iteration for iteration, _ in validations]
    noted = [one.iter for one in read_validations(folder)]
    return noted if len(noted) == len(logged) else logged


def main_metric(trainings: Sequence[Training]) -> str | None:
    """The average precision that the validations gave, else their first metric; None without validations."""
    names = [name for training in trainings for name in training.metrics]
    return average_precision(names) or next(iter(names), None)


def with_roles(trainings: Sequence[Training]) -> list[Training]:
    """Find out what each training is, by its config; the first one has to be a distillation.

    The teacher's is the one whose checkpoint the distillation names, or whose model is the teacher's; the student's
    alone is the one whose model is the student's. How weights begin and what is only used in training does not count.

    Raises:
        ReportError: if the first one is no distillation.
    """
    first = trainings[0]
    kind = type_name(first.config.model.get('type'))
    if kind != 'GraphDistiller':
        raise ReportError(
            f'work dir {first.folder} is of a {kind}; accepted: that of a distillation (model.type='
            "'mmkd_graph.GraphDistiller') first, then others"
        )
    teacher = first.config.model.teacher
    checkpoint = Path(str(teacher.get('checkpoint'))).resolve()
    parts = {ALONE: _body(model_of(first.config))}
    try:
        parts[TEACHER] = _body(teacher.config)
    except (FileNotFoundError, TypeError, ValueError):  # then only its checkpoint says which one it is
        parts[TEACHER] = None
    found = [replace(first, role=DISTILLED)]
    for training in trainings[1:]:
        taken = {one.role for one in found}
        role = OTHER
        if type_name(training.config.model.get('type')) != 'GraphDistiller':
            body = _body(model_of(training.config))
            if TEACHER not in taken and checkpoint.is_relative_to(training.folder.resolve()):
                role = TEACHER
            else:
                role = next((part for part, own in parts.items() if part not in taken and own == body), OTHER)
        found.append(replace(training, role=role))
    return found


_OF_TRAINING = ('init_cfg', 'pretrained', 'train_cfg', 'data_preprocessor', 'frozen_stages')


def _body(config: Any) -> Any:
    """What a model computes, to be compared."""
    return json.dumps(_without(resolve_model_config(config, 'model')), sort_keys=True, default=str)


def _without(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            str(key): type_name(item) if key == 'type' else _without(item)
            for key, item in value.items()
            if key not in _OF_TRAINING and not str(key).startswith('loss_')
        }
    return [_without(item) for item in value] if isinstance(value, (list, tuple)) else value
