"""What all pictures share: a canvas without pyplot, the colours of the three models, wording for changes."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

BEFORE, AFTER, TEACHER = '#e08214', '#2166ac', '#222222'


def new_figure(width: float, height: float) -> Figure:
    """A figure of ``width`` × ``height`` inches that pyplot knows nothing of."""
    return Figure(figsize=(width, height), dpi=120, layout='constrained')


def alike(kind: str, ndim: int, *values: ArrayLike) -> list[NDArray[np.float64]]:
    """Before, after and teacher as arrays; ``ValueError`` unless all have ``ndim`` dimensions of one size."""
    arrays = [np.asarray(x, dtype=np.float64) for x in values]
    shapes = [x.shape for x in arrays]
    if len({*shapes}) > 1 or len(shapes[0]) != ndim or len({*shapes[0]}) > 1:
        raise ValueError(f'before, after and teacher must be {kind}, got shapes {", ".join(map(str, shapes))}')
    return arrays


def change(before: float, after: float) -> str:
    """Say in words how a non-negative number changed.

    Example:
        >>> change(0.2, 0.05)
        'falls from 0.2 to 0.05 (-75 %)'
        >>> change(0.2, 0.2)
        'stays at 0.2'
    """
    old, new = f'{before:.3g}', f'{after:.3g}'
    if old == new:
        return f'stays at {new}'
    verb = 'falls' if after < before else 'rises'
    share = f' ({100 * (after - before) / before:+.0f} %)' if before > 0 else ''
    return f'{verb} from {old} to {new}{share}'
