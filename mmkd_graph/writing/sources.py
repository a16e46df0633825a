"""The configs and losses that a user names, and what else could have been meant."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmdet
from mmengine.config import Config
from mmengine.hub import get_config

from mmkd_graph.distillers.keys import options_of
from mmkd_graph.distillers.teacher import read_config
from mmkd_graph.losses import LOSSES
from mmkd_graph.registry import type_name

_ZOO = Path(mmdet.__file__).parent / '.mim' / 'configs'
_DATA = re.compile(r'[-_](coco|voc\w*|lvis\w*|cityscapes|openimages|objects365\w*|bccd|shapes)$')
"""The end of a config's name that says its data, by mmdet's convention."""


@dataclass(frozen=True)
class Source:
    """A detector's config.

    Attributes:
        name: path, or ``'mmdet::family/name.py'``.
        cfg: the whole config.
    """

    name: str
    cfg: Config

    @property
    def stem(self) -> str:
        """Name of the file without ``.py``."""
        return Path(self.name.rpartition('::')[2]).stem

    @property
    def short(self) -> str:
        """The stem without the data at its end."""
        return _DATA.sub('', self.stem)

    @property
    def is_local(self) -> bool:
        """Whether it is a file of the user's, not one of an installed package."""
        return '::' not in self.name

    def base(self, folder: Path) -> str:
        """What a file in ``folder`` writes into its ``_base_``."""
        return _relative(Path(self.name), folder) if self.is_local else self.name

    def weights(self) -> str | None:
        """Where mmdet publishes the weights of this very config; None if it does not."""
        if self.is_local or self.name.startswith('mmkd_graph::'):
            return None
        try:
            return get_config(self.name, pretrained=True).get('model_path')
        except AssertionError:  # it is in the metafile, without weights
            return None

    def last_checkpoint(self) -> str | None:
        """Where ``tools/train.py`` leaves the last checkpoint; None if the config does not say how long it trains."""
        training = self.cfg.get('train_cfg') or {}
        hook = (self.cfg.get('default_hooks') or {}).get('checkpoint') or {}
        for unit, by_epoch in (('epoch', True), ('iter', False)):
            if (end := training.get(f'max_{unit}s')) and hook.get('by_epoch', True) is by_epoch:
                template = hook.get('filename_tmpl') or f'{unit}_{{}}.pth'
                return f'{work_dir(self.name, self.cfg)}/{template.format(end)}'
        return None


def work_dir(name: str, cfg: Mapping[str, Any]) -> str:
    """The folder that ``tools/train.py`` uses for a config file."""
    return cfg.get('work_dir') or f'work_dirs/{Path(name).stem}'


def _relative(path: Path, folder: Path) -> str:
    found = Path(os.path.relpath(path, folder)).as_posix()
    return found if found.startswith('../') else f'./{found}'


def find_config(name: str, role: str) -> Source:
    """Read the config of a ``role`` (``'STUDENT'``, ``'TEACHER'``).

    Raises:
        FileNotFoundError: if there is none of this name; lists near ones.
        ValueError: if it cannot be read, or text configs cannot have it as a base.
    """
    if '::' in name:
        package, _, inner = name.partition('::')
        if package == 'mmdet' and not (_ZOO / inner).is_file():
            raise FileNotFoundError(f'{role}={name!r}: mmdet has no such config{_like(inner, _zoo())}')
    elif not Path(name).is_file():
        there = [str(path) for path in Path(name).parent.glob('*.py')] if Path(name).parent.is_dir() else []
        near = _like(name, there) or _like(name, _zoo())
        accepted = '' if near else "; accepted: a path, or 'mmdet::family/name.py'"
        raise FileNotFoundError(f'{role}={name!r}: no such file (working directory {os.getcwd()}){near}{accepted}')
    cfg = read_config(name, role)
    if '::' not in name and Config._is_lazy_import(name):
        raise ValueError(
            f'{role}={name!r} is a pure Python config, which no config that is written here can have as its base; '
            'write the distillation as docs/design.md says'
        )
    return Source(name, cfg)


def _zoo() -> dict[str, str]:
    """mmdet's configs by their name within it."""
    paths = [path.relative_to(_ZOO).as_posix() for path in _ZOO.glob('*/*.py') if path.parent.name != '_base_']
    return {path: f'mmdet::{path}' for path in paths}


def _like(
    name: str, accepted: Iterable[str] | Mapping[str, str], default: str = '; accepted: a name in its configs'
) -> str:
    """The end of a message that lists up to three near names, by their files' names."""
    stems: dict[str, list[str]] = {}
    for path in accepted:
        stems.setdefault(Path(path).stem, []).append(accepted[path] if isinstance(accepted, Mapping) else path)
    near = difflib.get_close_matches(Path(name).stem, stems, n=3, cutoff=0.6)
    found = [path for stem in near for path in stems[stem]]
    return f'; did you mean {", ".join(map(repr, found[:3]))}?' if found else ''


def find_losses(names: Iterable[str], classes: Any) -> dict[str, dict[str, Any]]:
    """``losses`` of a distiller, by names such as ``'crg'`` or ``'CRGLoss'``; those that have it get ``num_classes``.

    Raises:
        ValueError: for an unknown name; lists near ones.
    """
    known = {name.removesuffix('Loss').lower(): name for name in LOSSES}
    losses: dict[str, dict[str, Any]] = {}
    for given in names:
        name = type_name(given).lower().removesuffix('loss')
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f'; did you mean {", ".join(map(repr, near))}?' if near else ''
            raise ValueError(f'--losses: {given!r} is unknown; accepted: {", ".join(sorted(known))}{hint}')
        losses[name] = dict(type=f'mmkd_graph.{known[name]}')
        if 'num_classes' in options_of(LOSSES[known[name]])[0] and classes:
            losses[name]['num_classes'] = classes
    return losses
