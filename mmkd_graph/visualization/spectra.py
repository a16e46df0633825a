"""Laplacian spectra of the student's and the teacher's channel graphs over each other."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from mmkd_graph.graph import adjacency, normalized_laplacian

from .canvas import AFTER, BEFORE, TEACHER, change, new_figure


def laplacian_spectrum(affinity: ArrayLike) -> NDArray[np.float64]:
    """Eigenvalues of the normalised Laplacian of one channel graph.

    Args:
        affinity: (C, C) affinity matrix.

    Returns:
        (C,) eigenvalues in [0, 2], ascending.
    """
    weights = adjacency(torch.as_tensor(np.asarray(affinity), dtype=torch.float64)[None])
    return torch.linalg.eigvalsh(normalized_laplacian(weights)[0]).numpy()


def plot_spectra(
    before: ArrayLike,
    after: ArrayLike,
    teacher: ArrayLike,
    *,
    name: str = 'one pyramid level',
    labels: tuple[str, str] = ('before', 'after'),
    smallest: int = 20,
) -> Figure:
    """Draw three Laplacian spectra over each other: all eigenvalues, and the smallest ones again, enlarged.

    The smallest eigenvalues belong to the smooth embedding that the spectral term compares.

    Args:
        before: (C,) eigenvalues of the student's graph before distillation, ascending.
        after: (C,) the same after distillation.
        teacher: (C,) eigenvalues of the teacher's graph.
        name: what the graphs belong to, for the title.
        labels: names of the student's two states.
        smallest: how many eigenvalues the right panel shows.

    Returns:
        The figure. Its title says how the mean |difference| from the teacher's spectrum changed.

    Raises:
        ValueError: if the three are not vectors of one length.
    """
    before, after, teacher = (np.asarray(values, dtype=np.float64) for values in (before, after, teacher))
    if not (before.shape == after.shape == teacher.shape and teacher.ndim == 1):
        raise ValueError(
            'before, after and teacher must be vectors of one length, '
            f'got shapes {before.shape}, {after.shape} and {teacher.shape}'
        )
    means = [float(np.abs(values - teacher).mean()) for values in (before, after)]
    smallest = min(smallest, len(teacher))
    curves = (
        (teacher, TEACHER, 'teacher', '-', 'o', 3.2),
        (before, BEFORE, f'student {labels[0]}, mean |difference| {means[0]:.3g}', '--', 's', 1.8),
        (after, AFTER, f'student {labels[1]}, mean |difference| {means[1]:.3g}', '-', '^', 1.8),
    )

    figure = new_figure(12, 5.2)
    whole, start = figure.subplots(1, 2, width_ratios=(1.35, 1))
    number = np.arange(1, len(teacher) + 1)
    for values, colour, label, line, marker, width in curves:
        whole.plot(number, values, line, color=colour, linewidth=width, label=label)
        start.plot(
            number[:smallest],
            values[:smallest],
            line,
            color=colour,
            linewidth=width / 2,
            marker=marker,
            markersize=5,
            label=label,
        )
    whole.set_title(f'all {len(teacher)} eigenvalues', fontsize=11)
    start.set_title(f'the {smallest} smallest: the smooth embedding', fontsize=11)
    for axes in (whole, start):
        axes.set_xlabel('number of the eigenvalue, ascending')
        axes.set_ylabel('eigenvalue λ of the normalised Laplacian')
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
    whole.legend(loc='lower right', fontsize=9)

    figure.suptitle(
        f'Laplacian spectra of {name}: the student’s mean |Δλ| from the teacher {change(*means)}', fontsize=13
    )
    return figure
