"""The report's curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from mmkd_graph.visualization.canvas import AFTER, BEFORE, new_figure
from mmkd_graph.visualization.canvas import TEACHER as BLACK

from .trainings import ALONE, DISTILLED, TEACHER, Training

COLOURS = {DISTILLED: AFTER, ALONE: BEFORE, TEACHER: BLACK}
_OTHERS = ('#1b7837', '#762a83', '#8c510a', '#35978f', '#dd3497')


def plot_metrics(trainings: Sequence[Training], names: Sequence[str]) -> Figure:
    """Metrics of all trainings over the iterations, a panel for each; values in percent."""
    figure = new_figure(5.6 * len(names) + 1, 3.9)
    others = cycle(_OTHERS)
    colours = [COLOURS.get(training.role) or next(others) for training in trainings]
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for training, colour, marker in zip(trainings, colours, cycle('os^Dv'), strict=False):
            if points := training.metrics.get(name):
                iterations, values = np.transpose(points)
                label = f'{training.label}: {100 * values[-1]:.1f} at the end'
                axes.plot(iterations, 100 * values, color=colour, marker=marker, markersize=4, label=label)
        axes.set(xlabel='iteration', ylabel=f'{name} in percent')
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.legend(fontsize=9, loc='lower right')
    return figure


def plot_gradient_ratios(ratios: Mapping[str, Sequence[ArrayLike]], wanted: Mapping[str, float]) -> Figure:
    """How large the gradient of each loss was beside the task's, in every measured pass.

    Args:
        ratios: by loss (passes, ratios) at ``loss_weight=1``.
        wanted: by loss the ratio that the weight was to give it.
    """
    figure = new_figure(9, 3.4)
    axes = figure.subplots()
    for (name, (passes, values)), colour in zip(ratios.items(), cycle((AFTER, BEFORE, *_OTHERS)), strict=False):
        median = float(np.median(values))
        axes.plot(passes, values, 'o', color=colour, markersize=4, label=f'{name}, at weight 1: median {median:.3g}')
        axes.axhline(median, color=colour, linewidth=1)
        axes.axhline(
            wanted[name], color=colour, linewidth=1.5, linestyle='--', label=f'{name}, wanted: {wanted[name]:g}'
        )
    sizes = np.concatenate([np.asarray(values) for _, values in ratios.values()])
    if sizes.max() > 10 * sizes.min():
        axes.set_yscale('log')
        axes.yaxis.set_major_formatter('{x:g}')
    else:
        axes.set_ylim(bottom=0)
    axes.set(xlabel='measured training pass', ylabel='gradient norm / that of the task')
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25, which='both')
    axes.legend(fontsize=9, loc='upper left', bbox_to_anchor=(1.01, 1), frameon=False)
    return figure


def plot_gains(gains: ArrayLike) -> Figure:
    """How many images have how many more (or fewer) found objects in the distilled student's detections."""
    values, counts = np.unique(np.asarray(gains), return_counts=True)
    figure = new_figure(7, 2.9)
    axes = figure.subplots()
    colours = [AFTER if value > 0 else BEFORE if value < 0 else '#9a9a9a' for value in values]
    bars = axes.bar(values, counts, color=colours, width=0.8)
    axes.bar_label(bars, fontsize=9)
    limit = max(1, int(np.abs(values).max(initial=0))) + 1
    axes.set_xlim(-limit, limit)
    axes.set(xlabel='objects found by the distilled student, minus those found by the student alone', ylabel='images')
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(y=0.15)
    axes.spines[['top', 'right']].set_visible(False)
    return figure


def plot_shares(shares: Mapping[str, float]) -> Figure:
    """Gradient norms as shares of the task's, a bar for each, the losses as they are weighted at that moment."""
    figure = new_figure(8, 0.9 + 0.38 * len(shares))
    axes = figure.subplots()
    names = [*shares][::-1]
    bars = axes.barh(
        names, [shares[name] for name in names], color=['#9a9a9a' if n == 'task' else AFTER for n in names]
    )
    axes.bar_label(bars, fmt='%.3g', padding=4, fontsize=9)
    axes.set_xlabel('gradient norm at the tapped features / that of the task losses')
    axes.margins(x=0.12)
    axes.spines[['top', 'right']].set_visible(False)
    return figure
