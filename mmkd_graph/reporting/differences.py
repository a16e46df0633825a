"""In what the configs of two trainings differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from mmkd_graph.distillers.teacher import with_preprocessor
from mmkd_graph.registry import type_name

_LONGEST = 160
"""Letters of a value that are shown."""
_OF_A_RUN = ('work_dir', 'launcher', 'resume')
_COPIES = ('train_pipeline', 'test_pipeline')
"""Variables of config files, whose values are read where they are used."""


def config_differences(distilled: Config, alone: Config) -> list[tuple[str, str, str]]:
    """Keys of resolved configs with different values: (key, alone, distilled); ``'-'`` where there is none.

    The student within the distilled config is compared with the model of the other one, and what the distillation adds
    stands under ``model``, as it is written. Order of keys does not count; work dir and launcher are left out.
    """
    model = distilled.to_dict()['model']
    added = {key: value for key, value in model.items() if key not in ('student', 'data_preprocessor')}
    student = with_preprocessor(model['student'], model.get('data_preprocessor'))
    whole = {**distilled.to_dict(), 'model': student}
    ours = _flat({key: value for key, value in whole.items() if key not in (*_OF_A_RUN, *_COPIES)})
    theirs = _flat({key: value for key, value in alone.to_dict().items() if key not in (*_OF_A_RUN, *_COPIES)})
    differing = [key for key in dict.fromkeys([*theirs, *ours]) if ours.get(key, '-') != theirs.get(key, '-')]
    rows = [
        (f'model.{key}', '-', value) for key, value in _flat(added).items() if not key.startswith('teacher.config.')
    ]
    if isinstance(model['teacher'].get('config'), Mapping):
        rows.append(('model.teacher.config', '-', 'a config that is written out'))
    return [*rows, *((key, theirs.get(key, '-'), ours.get(key, '-')) for key in differing)]


def _flat(value: Any, key: str = '') -> dict[str, str]:
    """Every plain value with its key as ``--cfg-options`` takes it."""
    if isinstance(value, Mapping) and value:
        items = ((f'{key}.{name}' if key else str(name), item) for name, item in value.items())
    elif isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
        by_name = key == 'custom_hooks'  # their places say nothing, and a hook more would move all others
        names = [type_name(item['type']) if by_name else number for number, item in enumerate(value)]
        items = ((f'{key}.{name}', item) for name, item in zip(names, value, strict=True))
    else:
        text = value if isinstance(value, str) else type_name(value) if isinstance(value, type) else repr(value)
        return {key: text if len(text) <= _LONGEST else f'{text[:_LONGEST]}…'}
    return {name: text for inner, item in items for name, text in _flat(item, inner).items()}
