"""What a benchmark compares: teacher, student and methods in one file, and what the methods may choose from."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from mmkd_graph.packaged import read_config, shipped


class SuiteError(ValueError):
    """A suite or a config that cannot be compared; the message is one line and names the key."""


@dataclass(frozen=True)
class Suite:
    """What is compared on one data set. Read from a Python file with these names.

    Args:
        teacher: config that trains the teacher, a path or an ``mmdet::`` name.
        student: config of the student alone.
        methods: by name, a loss (``dict(type=…)``) that is put between student and teacher, options of
            ``GraphDistiller`` with ``losses`` among them, or the path of a distillation config.
        tune: ``dict(key=…, values=[…], seed=…)``: what each loss may choose from, on the validation split, by a seed,
            the first one unless it is given; ``key`` is a path within the loss, such as ``'loss_weight.ratio'``, and
            ``values`` ascend (see :func:`untried`). Losses without the key and configs of their own are not tuned.
        seeds: default seeds.
        distiller: beside student, teacher and losses what each loss is put into, options of ``GraphDistiller`` such as
            ``dict(taps='backbone')``. Configs of their own are left as they are.
        pretrain: config that trains, by the first seed, a detector whose backbone the students' start from; ``None``:
            they start as the student's config says. Configs of their own are left as they are.
        weights: checkpoint of the teacher, a path or an address, which is then not trained.
        reported: by method, ``'teacher'`` or ``'student'``, what others report: ``dict(ap=…, setting=…, source=…)``,
            AP in percent.
    """

    teacher: str
    student: str
    methods: Mapping[str, Any]
    tune: Mapping[str, Any] | None = None
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    distiller: Mapping[str, Any] | None = None
    pretrain: str | None = None
    weights: str | None = None
    reported: Mapping[str, Sequence[Mapping[str, Any]]] | None = None

    @classmethod
    def from_file(cls, path: str | Path) -> Suite:
        """Read and check a suite.

        Raises:
            SuiteError: naming the key, what was given and what is accepted.
        """

        def need(fulfilled: object, otherwise: str) -> None:
            if not fulfilled:
                raise SuiteError(f'{path}: {otherwise}')

        path = shipped(path)
        need(Path(path).is_file(), 'no such file; accepted: the config of a distillation, or a suite')
        content = read_config(path).to_dict()
        names = {one.name for one in fields(cls)}
        unknown, missing = sorted(content.keys() - names), sorted({'teacher', 'student', 'methods'} - content.keys())
        need(not unknown, f'{", ".join(unknown)}; accepted: {", ".join(sorted(names))}')
        need(not missing, f'it lacks {", ".join(missing)}')
        for key in {'teacher', 'student', 'pretrain'} & content.keys():
            given = content[key] = shipped(content[key]) if content[key] else None
            need(given is None or _is_config(given), f'{key}={given!r}: no such config')
            need(key not in content['methods'], f'methods.{key}; accepted: any other name')
        for name, method in content['methods'].items():
            method = content['methods'][name] = shipped(method) if isinstance(method, str) else method
            fits = _is_config(method) if isinstance(method, str) else isinstance(method, dict) and _names_loss(method)
            need(fits, f'methods.{name}={method!r}; accepted: dict(type=…), dict(losses=…), or the path of a config')
        taken = {'type', 'student', 'teacher', 'losses'} & set(content.get('distiller') or {})
        need(not taken, f'distiller.{min(taken, default="")}; accepted: other options of GraphDistiller')
        known = {'teacher', 'student', *content['methods']}
        for name, values in (content.get('reported') or {}).items():
            need(name in known, f'reported.{name}; accepted: {", ".join(sorted(known))}')
            need(
                all({*value} == {'ap', 'setting', 'source'} for value in values),
                f'reported.{name}={values}; accepted: a list of dict(ap=…, setting=…, source=…)',
            )
        suite = cls(**content)
        if (tune := suite.tune) is not None:
            need(
                {'key', 'values'} <= tune.keys() <= {'key', 'values', 'seed'}
                and len(tune['values']) > 1
                and list(tune['values']) == sorted(set(tune['values']))
                and isinstance(tune.get('seed', 0), int),
                f'tune={tune}; accepted: dict(key=…, values=[…]) with at least two values that ascend, and '
                'seed=<integer>',
            )
            tuned = any(map(suite.tunes, suite.methods))
            need(tuned, f'tune.key={tune["key"]!r}; accepted: a key that one of the methods has')
        return suite

    def tunes(self, name: str) -> bool:
        """Whether a method is a loss with the key that is tuned."""
        value = self.methods[name]
        for part in self.tune['key'].split('.'):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value is not None

    def pretrained(self, checkpoint: Path) -> str:
        """The text of the student's config with a backbone that starts from a checkpoint."""
        config = read_config(self.student)
        config.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(checkpoint), prefix='backbone.')
        return config.pretty_text

    def config(self, name: str, checkpoint: Path, value: Any = None) -> str:
        """The text of the config that trains a method.

        Args:
            name: of the method.
            checkpoint: of the teacher.
            value: of what is tuned, if it is.
        """
        method = self.methods[name]
        if isinstance(method, str):
            return f'_base_ = {_found(method)!r}\nmodel = dict(teacher=dict(checkpoint={str(checkpoint)!r}))\n'
        loss = ConfigDict(copy.deepcopy(method))
        if value is not None:
            loss = Config(dict(loss=loss))
            loss.merge_from_dict({f'loss.{self.tune["key"]}': value})
            loss = loss.loss
        options = loss.to_dict() if 'losses' in loss else dict(losses={name: loss.to_dict()})
        return (
            f'_base_ = {_found(self.student)!r}\n'
            "model = dict(_delete_=True, type='mmkd_graph.GraphDistiller', student={{_base_.model}},\n"
            f'    teacher=dict(config={self.teacher!r}, checkpoint={str(checkpoint)!r}),\n'
            f'    **{ {**(self.distiller or {}), **options}!r})\n'
        )


def untried(values: Sequence[float], scores: Mapping[float, float]) -> list[float]:
    """What to try next of values that ascend: first the middle three, then the neighbours of the best one so far.

    Args:
        values: what may be chosen.
        scores: of the values tried so far; the higher the better.

    Returns:
        Values without a score; none where the best one lies between two worse ones or at an end of ``values``.

    Example:
        >>> untried([1, 2, 4, 8, 16], {})
        [2, 4, 8]
        >>> untried([1, 2, 4, 8, 16], {2: 0.3, 4: 0.1, 8: 0.1})
        [1]
    """
    if not scores:
        start = max(0, (len(values) - 3) // 2)
        return list(values[start : start + 3])
    best = values.index(max(scores, key=scores.__getitem__))
    return [value for value in values[max(0, best - 1) : best + 2] if value not in scores]


def _is_config(given: str) -> bool:
    """Whether there is such a file, or such a config in a package."""
    if '::' not in given:
        return Path(given).is_file()
    try:
        return bool(read_config(given))
    except FileNotFoundError:
        return False


def _found(config: str) -> str:
    """A config as one elsewhere names it."""
    return config if '::' in config else os.path.abspath(config)


def _names_loss(method: Mapping[str, Any]) -> bool:
    """Whether this is a loss, or options of ``GraphDistiller`` with losses."""
    if 'losses' in method:
        return not {'type', 'student', 'teacher'} & method.keys()
    return 'type' in method
