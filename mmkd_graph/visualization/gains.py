"""A picture of what distillation gained."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .canvas import new_figure


def draw_gains(
    ap: Mapping[str, Sequence[float]],
    teachers: Sequence[str],
    interval: Callable[[list[float]], float],
    title: str,
    path: Path,
) -> None:
    """AP of every seed, means and intervals, between the lines of student and teachers.

    Args:
        ap: per model one value a seed; in them are ``student`` and, if they were evaluated, the teachers.
        teachers: their names.
        interval: half width of the interval of a mean.
        title: of the picture.
        path: file to write, ``….png``.
    """
    figure = new_figure(7, 1.2 + 0.45 * len(ap))
    axes = figure.subplots()
    for row, (name, values) in enumerate(ap.items()):
        mean = statistics.mean(values)
        bar = interval(list(values)) if len(values) > 1 else None
        axes.errorbar(mean, row, xerr=bar, fmt='o', color='black', capsize=4, zorder=3)
        axes.scatter(values, [row] * len(values), color='#4477aa', alpha=0.6, s=18)
        if name == 'student' or name in teachers:
            axes.axvline(mean, color='#cc6677' if name == 'student' else '#228833', linewidth=1, label=f'{name}, mean')
    axes.set_yticks(range(len(ap)), list(ap))
    axes.invert_yaxis()
    axes.set_xlabel('AP; points are seeds, bars the 95 % interval of their mean')
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
    figure.savefig(path)
