"""Laplacian spectra of the student's and the teacher's channel graphs over each other."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mmkd_graph.graph import spectrum

from .canvas import AFTER, BEFORE, TEACHER, alike, change, new_figure


def laplacian_spectrum(rows: Tensor) -> NDArray[np.float32]:
    """Smallest eigenvalues of the normalised Laplacians of windows' graphs, a mean over the windows.

    Args:
        rows: (B, C, L) unit rows of B windows, see :func:`~mmkd_graph.graph.unit_rows`.

    Returns:
        (min(C, L + 1),) eigenvalues in [0, 1], ascending; all the others are 1.
    """
    values = 1 - spectrum(rows).values.flip(1)
    return values[:, : rows.shape[1]].mean(0).cpu().numpy()


def plot_spectra(
    before: ArrayLike,
    after: ArrayLike,
    teacher: ArrayLike,
    *,
    name: str = 'one pyramid level',
    labels: tuple[str, str] = ('before', 'after'),
    smallest: int = 6,
) -> Figure:
    """Draw three Laplacian spectra over each other: all that is not 1, and the smallest eigenvalues again, enlarged.

    The smallest eigenvalues belong to the smooth embedding, which weighs most in the spectral term.

    Args:
        before: (m,) eigenvalues of the student's graphs before distillation, ascending.
        after: (m,) the same after distillation.
        teacher: (m,) eigenvalues of the teacher's graphs.
        name: what the graphs belong to, for the title.
        labels: names of the student's two states.
        smallest: how many eigenvalues the right panel shows.

    Returns:
        The figure. Its title says how the mean |difference| from the teacher's spectrum changed.

    Raises:
        ValueError: if the three are not vectors of one length.
    """
    before, after, teacher = alike('vectors of one length', 1, before, after, teacher)
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
        style = dict(color=colour, label=label)
        whole.plot(number, values, line, linewidth=width, **style)
        start.plot(number[:smallest], values[:smallest], line + marker, linewidth=width / 2, markersize=5, **style)
    whole.set_title(f'the {len(teacher)} eigenvalues of a window; all others are 1', fontsize=11)
    start.set_title(f'the {smallest} smallest: the smooth embedding', fontsize=11)
    for axes in (whole, start):
        axes.set(xlabel='number of the eigenvalue, ascending', ylabel='eigenvalue λ of the normalised Laplacian')
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
    whole.legend(loc='lower right', fontsize=9)

    figure.suptitle(
        f'Laplacian spectra of {name}: the student’s mean |Δλ| from the teacher {change(*means)}', fontsize=13
    )
    return figure
