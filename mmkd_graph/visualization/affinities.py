"""Channel-affinity matrices of a student, before and after distillation, beside its teacher's."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .canvas import AFTER, BEFORE, alike, change, new_figure


def window_affinity(rows: Tensor) -> NDArray[np.float32]:
    """Cosines between the channels of windows, a mean over the windows.

    Args:
        rows: (B, C, L) unit rows of B windows, see :func:`~mmkd_graph.graph.unit_rows`.

    Returns:
        (C, C) affinity matrix in [-1, 1].
    """
    flat = rows.transpose(0, 1).flatten(1)
    return (flat @ flat.mT / len(rows)).cpu().numpy()


def spectral_order(affinity: ArrayLike) -> NDArray[np.int64]:
    """Order channels by the Fiedler vector of their graph, so that related channels stand together.

    Args:
        affinity: (C, C) affinity matrix A; the edges weigh (1 + A) / 2.

    Returns:
        (C,) permutation; channels without any affinity, dead ones, come last. An eigenvector has no sign of its
        own: the direction is chosen so that the first channel that is not dead lies in the first half.
    """
    affinity = np.asarray(affinity, dtype=np.float64)
    alive = np.flatnonzero(np.abs(affinity).sum(1) > 0)
    dead = np.setdiff1d(np.arange(len(affinity)), alive)
    if len(alive) < 3:
        return np.concatenate([alive, dead])
    weights = (1 + affinity[np.ix_(alive, alive)]) / 2
    root = np.sqrt(weights.sum(1))
    fiedler = np.linalg.eigh(weights / root[:, None] / root).eigenvectors[:, -2] / root
    ranks = np.argsort(fiedler, kind='stable')
    if np.flatnonzero(ranks == 0)[0] >= len(ranks) / 2:
        ranks = ranks[::-1]
    return np.concatenate([alive[ranks], dead])


def plot_affinities(
    before: ArrayLike,
    after: ArrayLike,
    teacher: ArrayLike,
    *,
    name: str = 'one pyramid level',
    labels: tuple[str, str] = ('before', 'after'),
    order: ArrayLike | None = None,
) -> Figure:
    """Draw the student's affinity before and after distillation beside the teacher's, on one colour scale.

    Upper row: the three matrices. Lower row: the student's distance from the teacher, edge by edge, before
    and after, and the distribution of both. The diagonal is 1 in all matrices and counts nowhere.

    Args:
        before: (C, C) affinity of the student's channels before distillation, in [-1, 1].
        after: (C, C) the same after distillation.
        teacher: (C, C) affinity of the teacher's channels.
        name: what the graphs belong to, for the title.
        labels: names of the student's two states.
        order: (C,) order of the channels in all matrices; default: :func:`spectral_order` of the teacher.

    Returns:
        The figure. Its title says how the mean |difference| from the teacher changed.

    Raises:
        ValueError: if the three are not square matrices of one size.
    """
    before, after, teacher = alike('square matrices of one size', 2, before, after, teacher)
    edges = ~np.eye(len(teacher), dtype=bool)
    distance_before, distance_after = np.abs(before - teacher), np.abs(after - teacher)
    distances = (distance_before[edges], distance_after[edges])
    means = [float(values.mean()) if values.size else 0.0 for values in distances]
    order = spectral_order(teacher) if order is None else np.asarray(order)
    shown = np.ix_(order, order)

    # Off-diagonal values are often far below 1: a scale from -1 to 1 would show next to nothing.
    sizes = np.abs(np.stack([before, after, teacher])[:, edges])
    limit, distance_limit = _upper(sizes), _upper(np.concatenate(distances))
    clipped = 'both' if sizes.max(initial=0) > limit else 'neither'
    distance_clipped = 'max' if np.max(distances, initial=0) > distance_limit else 'neither'

    figure = new_figure(13, 8.6)
    grid = figure.subplots(2, 3)
    upper = ((f'student {labels[0]}', before), ('teacher', teacher), (f'student {labels[1]}', after))
    for axes, (title, matrix) in zip(grid[0], upper, strict=True):
        image = _matrix(axes, matrix[shown], title, 'RdBu_r', -limit, limit)
    figure.colorbar(image, ax=list(grid[0]), shrink=0.9, extend=clipped, label='affinity of two channels')

    lower = zip(grid[1, ::2], labels, means, (distance_before, distance_after), strict=True)
    for axes, label, mean, matrix in lower:
        title = f'|student {label} − teacher|, mean {mean:.3g}'
        image = _matrix(axes, matrix[shown], title, 'magma_r', 0, distance_limit)
    figure.colorbar(image, ax=list(grid[1]), shrink=0.9, extend=distance_clipped, label='|difference| of affinities')

    axes = grid[1, 1]
    bins = np.linspace(0, max(1e-6, *(values.max(initial=0) for values in distances)), 60)
    for values, colour, label, mean in zip(distances, (BEFORE, AFTER), labels, means, strict=True):
        axes.hist(values, bins=bins, color=colour, alpha=0.45, label=f'student {label}')
        axes.axvline(mean, color=colour, linewidth=1.8, linestyle='--', label=f'mean {mean:.3g}')
    axes.set_title('how far the edges are from the teacher', fontsize=11)
    axes.set(xlabel='|difference| of affinities', ylabel='edges', box_aspect=1, xmargin=0)
    axes.legend(fontsize=9)

    figure.suptitle(
        f'Channel affinities of {name}: the student’s mean |difference| from the teacher {change(*means)}',
        fontsize=13,
    )
    return figure


def _upper(values: NDArray[np.float64]) -> float:
    """Upper end of a colour scale: the 99th percentile, rounded up, never 0."""
    values = values[np.isfinite(values)]
    top = float(np.percentile(values, 99)) if values.size else 0.0
    if top <= 0:
        return 1e-3
    step = 10.0 ** np.floor(np.log10(top)) / 5
    return float(np.ceil(top / step - 1e-6) * step)


def _matrix(axes: Axes, matrix: NDArray, title: str, colours: str, low: float, high: float):
    image = axes.imshow(matrix, cmap=colours, vmin=low, vmax=high, interpolation='nearest')
    axes.set_title(title, fontsize=11)
    axes.set(xlabel='channel, in the teacher’s spectral order', ylabel='channel')
    return image
