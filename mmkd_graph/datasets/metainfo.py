"""What data sets and checkpoints say of the data: ``metainfo``, ``dataset_meta``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from mmdet.registry import DATASETS

_SIMILAR = 0.75
"""difflib's ratio from which a name may be a misspelt form of another one: not RBC of WBC, nor car of cat (0.67)."""


def common_metainfo(metainfo: Any) -> dict[str, Any]:
    """One ``metainfo`` of what a data set or a checkpoint has.

    Args:
        metainfo: a mapping; or a sequence of mappings, which mmdet's ``ConcatDataset`` has (and its checkpoints
            store as ``dataset_meta``) where its parts differ in anything; or nothing.

    Returns:
        A new dict. Of several mappings, what all of them have with the same value.

    Example:
        >>> common_metainfo([dict(classes=('cat', 'dog'), palette=None), dict(classes=['cat', 'dog'], year=2024)])
        {'classes': ('cat', 'dog')}
    """
    if isinstance(metainfo, Mapping):
        return dict(metainfo)
    if not isinstance(metainfo, Sequence) or not metainfo or not all(isinstance(part, Mapping) for part in metainfo):
        return {}
    first, *others = metainfo
    return {
        key: value
        for key, value in first.items()
        if all(key in other and _plain(value) == _plain(other[key]) for other in others)
    }


def config_classes(dataset: Any) -> tuple[str, ...] | None:
    """The class names of a data set's config, through its wrappers; None if nothing says them.

    Where several data sets are concatenated, the first one counts. Names that no config gives are those of the type.

    Example:
        >>> config_classes(dict(type='RepeatDataset', dataset=dict(type='CocoDataset', metainfo=dict(classes=['cat']))))
        ('cat',)
    """
    while isinstance(dataset, Mapping):
        names = (dataset.get('metainfo') or {}).get('classes')
        inner = dataset.get('dataset') or next(iter(dataset.get('datasets') or ()), None)
        if not names and not inner:
            kind = dataset.get('type')
            kind = kind if isinstance(kind, type) else DATASETS.get(str(kind))
            names = getattr(kind, 'METAINFO', {}).get('classes')
        if names:
            return class_names(names)
        dataset = inner
    return None


def class_names(names: str | Sequence[str]) -> tuple[str, ...]:
    """Names as a tuple; a text is one name."""
    return (names,) if isinstance(names, str) else tuple(map(str, names))


def similar_name(name: str, others: Iterable[str]) -> str:
    """The class that ``name`` may be a misspelt form of; empty if none is so close.

    Example:
        >>> similar_name('platelet', ['RBC', 'Platelets']), similar_name('RBC', ['WBC', 'Platelets'])
        ('Platelets', '')
    """
    lower = {other.strip().lower(): other for other in others}
    found = difflib.get_close_matches(name.strip().lower(), lower, n=1, cutoff=_SIMILAR)
    return lower[found[0]] if found else ''


def _plain(value: Any) -> Any:
    """What is equal by its contents, whether in lists, tuples or arrays."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
