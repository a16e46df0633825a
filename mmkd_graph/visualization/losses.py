"""Every loss term over the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .canvas import change, new_figure

DISTILLATION = 'loss_kd.'
COLOURS = ('#2166ac', '#e08214', '#1b7837', '#b2182b', '#762a83', '#8c510a', '#35978f', '#dd3497')
TOTAL = '#222222'
DECADES = 1.5


def plot_losses(history: Mapping[str, Sequence[Sequence[float]]], *, window: int | None = None) -> Figure:
    """Draw all loss terms over the iterations: the task's above, the distillation's below.

    Light lines are the recorded values, strong lines their running mean. A panel whose running means span
    more than a decade and a half gets a logarithmic axis. Names without ``loss`` (an accuracy, say) and
    those that start with ``kd.`` are left out.

    Args:
        history: name of a term → its (iteration, value) pairs, ascending. Names that start with ``loss_kd.``
            are distillation terms; ``loss`` is the sum of all.
        window: points in the running mean; default: a twentieth of the longest curve.

    Returns:
        The figure: two panels, or one where only one kind of term was recorded.

    Raises:
        ValueError: if ``history`` has no loss term with a recorded value.
    """
    terms = {
        name: np.asarray(points, dtype=np.float64).reshape(-1, 2).T
        for name, points in history.items()
        if 'loss' in name and not name.startswith('kd.') and len(points)
    }
    if not terms:
        raise ValueError(f'history holds no loss term with a value; its names are {sorted(history)}')
    if window is None:
        window = max(1, max(points.shape[1] for points in terms.values()) // 20)
    window += 1 - window % 2  # an even window would shift the curves by half a point
    task = {name: points for name, points in terms.items() if not name.startswith(DISTILLATION)}
    distillation = {name: points for name, points in terms.items() if name.startswith(DISTILLATION)}
    groups = (('task losses', task), ('distillation terms, as weighted in the sum', distillation))
    panels = [(heading, group) for heading, group in groups if group]

    figure = new_figure(11, 1.2 + 3.9 * len(panels))
    column = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (heading, group) in zip(column, panels, strict=True):
        _panel(axes, heading, group, window)
    axes.set_xlabel('iteration')
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(_title(terms, distillation, window), fontsize=13)
    return figure


def _panel(axes: Axes, heading: str, group: Mapping[str, NDArray], window: int) -> None:
    means = {name: _running_mean(values, window) for name, (_, values) in group.items()}
    positive = np.concatenate([mean[np.isfinite(mean) & (mean > 0)] for mean in means.values()])
    logarithmic = positive.size > 0 and np.log10(positive.max() / positive.min()) > DECADES
    colours = cycle(COLOURS)
    for name in sorted(group, key=lambda name: (name != 'loss', name)):
        (iterations, values), mean = group[name], means[name]
        colour = TOTAL if name == 'loss' else next(colours)
        label = 'loss: sum of all terms' if name == 'loss' else name.removeprefix(DISTILLATION)
        if logarithmic:
            label += '' if (values > 0).any() else ' (never above 0)'
            values, mean = (np.where(x > 0, x, np.nan) for x in (values, mean))
        axes.plot(iterations, values, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(iterations, mean, color=colour, linewidth=2, label=label, marker='o' if len(mean) == 1 else None)
    if logarithmic:
        axes.set_yscale('log')
        axes.yaxis.set_major_formatter('{x:g}')
    axes.set_title(heading, fontsize=11, loc='left')
    axes.set_ylabel('loss (log scale)' if logarithmic else 'loss')
    axes.grid(alpha=0.25, which='both' if logarithmic else 'major')
    axes.legend(loc='upper left', bbox_to_anchor=(1.01, 1), fontsize=9, frameon=False)


def _running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Centred mean over ``window`` finite values, over fewer at the ends; NaN where there is none."""
    finite = np.isfinite(values)
    kernel = np.ones(min(window, len(values)))
    count = np.convolve(finite, kernel, mode='same')
    total = np.convolve(np.where(finite, values, 0.0), kernel, mode='same')
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0.5)


def _title(terms: Mapping[str, NDArray], distillation: Mapping[str, NDArray], window: int) -> str:
    """Say how the sum of the distillation terms (or else the whole loss) changed from first to last."""
    if distillation:
        subject, chosen = 'the sum of the distillation terms', list(distillation.values())
    elif 'loss' in terms:
        subject, chosen = 'the loss', [terms['loss']]
    else:
        return 'Loss terms'
    first, last = (sum(float(_running_mean(values, window)[end]) for _, values in chosen) for end in (0, -1))
    last_iteration = int(max(iterations[-1] for iterations, _ in terms.values()))
    return f'Loss terms over {last_iteration} iterations: {subject} {change(first, last)}'
