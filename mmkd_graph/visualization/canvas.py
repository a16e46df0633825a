"""What all pictures share: a canvas without pyplot, the colours of the three models, wording for changes."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BEFORE, AFTER, TEACHER = '#e08214', '#2166ac', '#222222'


def new_figure(width: float, height: float) -> Figure:
    """A figure of its own Agg canvas, ``width`` × ``height`` inches, that pyplot knows nothing of."""
    figure = Figure(figsize=(width, height), dpi=120, layout='constrained')
    FigureCanvasAgg(figure)
    return figure


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
