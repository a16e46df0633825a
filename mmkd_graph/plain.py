"""What a checkpoint says beside its weights, as plain values that can be read back as weights only."""

from __future__ import annotations

import datetime
import enum
from collections import deque
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

_KEPT = (torch.Tensor, torch.dtype, torch.device, HistoryBuffer)


def plain(value: Any, place: str = '', as_text: list[str] | None = None) -> Any:
    """``value`` of dicts, lists, tuples, sets, texts, numbers, and arrays of numbers alone.

    Args:
        value: anything.
        place: what to call it.
        as_text: given a list, the places of what could only be written as text (``str(value)``) are added to it.

    Returns:
        A copy; tensors and mmengine's logs are the same objects. Mappings become dicts, ranges and deques lists, paths
        and dates texts, NumPy's numbers Python's.

    Example:
        >>> plain(dict(classes=range(2), since=datetime.date(2024, 5, 1), folder=PurePath('a'), share=np.float16(0.5)))
        {'classes': [0, 1], 'since': '2024-05-01', 'folder': 'a', 'share': 0.5}
    """
    if value is None or type(value) in (bool, int, float, complex, str, bytes) or isinstance(value, _KEPT):
        return value
    if isinstance(value, enum.Enum):
        return plain(value.value, place, as_text)
    for kind in (bool, int, float, complex, str, bytes):  # NumPy's are subclasses of some
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, np.ndarray):
        return np.array(value) if value.dtype.kind in 'biufc' else plain(value.tolist(), place, as_text)
    if isinstance(value, np.generic):
        item = value.item()
        return float(item) if isinstance(item, np.generic) else plain(item, place, as_text)
    if isinstance(value, Mapping):
        return {
            plain(key, f'{place}[{key!r}]', as_text): plain(item, f'{place}.{key}', as_text)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple, range, deque, set, frozenset)):
        items = [plain(item, f'{place}[{i}]', as_text) for i, item in enumerate(value)]
        if isinstance(value, (set, frozenset)):
            return set(items)
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, (PurePath, datetime.date, datetime.time, datetime.timedelta)):
        return str(value)
    if as_text is not None:
        as_text.append(f'{place} ({type(value).__name__})')
    return str(value)
