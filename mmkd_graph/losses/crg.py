"""CRG: channels relational graph distillation (arXiv 2405.08547), on windows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from mmkd_graph.graph import channel_attention
from mmkd_graph.graph.arguments import check_integer, check_number
from mmkd_graph.graph.windows import (
    WindowLevels,
    cut_windows,
    edge_distance,
    spectral_distance,
    unit_rows,
    window_attention,
)
from mmkd_graph.registry import MODELS

from .base import DistillContext, LevelWeights, Pyramid, PyramidLoss, PyramidSpec, level_shares, term_weights, total

QUIET = 1e-3
"""A level whose energy is below this share of the mean level's counts no more than one that has as much."""

STRUCTURELESS = 1e-6
"""Energy of a spectral embedding below which a window is constant, within rounding of float32."""


class _Windows(NamedTuple):
    """K windows of L cells of some levels, side by side.

    Features (N, K, C, L) of both sides times the root of the cells' weights, which are 1 on average where valid.
    """

    student: Tensor
    teacher: Tensor
    cells: Tensor  # (N, K), how many are valid
    counts: Tensor  # (N, S), their sums
    channels: Tensor  # (N, S, C), weights that are 1 on average
    levels: WindowLevels
    shares: Tensor  # (S,), of the levels in the loss

    def weights(self) -> Tensor:
        """(N, K), of the windows in the loss: a level's share, shared out among its valid cells."""
        return self.cells * self.levels.spread((self.shares / self.counts.sum(0)).unsqueeze(0))


@MODELS.register_module()
class CRGLoss(PyramidLoss):
    """Vertices, edges and spectral embedding of graphs whose vertices are the channels of a level.

    ``α L_V + β L_E + γ L_S`` (arXiv 2405.08547), each as a share of what the teacher has, so that no unit of the
    features counts. Edges and spectrum are those of windows of p × p cells (:mod:`mmkd_graph.graph.windows`): the
    channel graph of a whole map does not change when its cells are permuted.

    - ``vertex``: the squared difference of the features, over the teacher's energy on the level. It sees everything,
      and weighs every direction and every place alike, but for the attention.
    - ``edge``: the squared difference of the cosines between the channels of a window, over the teacher's. It cannot
      see the length of a channel, what rotates the cells of a window for all channels alike (a mirrored window, for
      instance), nor at p = 1 more than signs.
    - ``spectral``: the difference of the graphs' normalised adjacencies in the teacher's spectral embedding
      (:func:`~mmkd_graph.graph.windows.spectral_distance`), over the embedding's own. It cannot see what the edges
      cannot, nor what the student's graph has beside the teacher's eigenvectors; large eigenvalues weigh most.

    The teacher's spatial attention weighs the cells of all three, its channel attention the vertices'. Cells beyond
    an image's own shape do not count. Windows of all images are averaged by their valid cells, vertices over the
    images, levels by ``level_weights``. No matrix of channels × channels is made. The windows of all levels go through
    every operation side by side, so that a GPU gets few large kernels.

    Args:
        vertex_weight: α; 0 switches the term off, as with the other two. At 10 the gradients of loss and task are about
            equal at the start of training on the small sets.
        edge_weight: β. Equal to α it cost more than one point of AP on one of two sets; a tenth of α cost nothing
            (measured with version 0.1).
        spectral_weight: γ, as β. Edges and spectrum alone gain 1.6 ± 1.2 AP on VOC 2007, five seeds at a ratio of 0.5;
            beside the vertices 0.1 ± 0.5, and nothing in two other settings.
        window: p, in cells, from 2 (1 leaves signs alone), or the map's side where that is smaller. At 4 a graph has 17
            eigenvalues, and CUDA has a batched solver.
        temperature: of the attention's two softmaxes, over activities divided by their mean; 0.5 removed what vertices
            gain. ``None``: no attention, -0.2 ± 1 AP on BCCD, five seeds (version 0.1).
        level_weights: ``'area'`` (every cell has the same weight), ``'equal'`` (every level), or one number per paired
            level, finest first. On one set ``'area'`` gained 2 AP over ``'equal'``, on another nothing (version 0.1).

    Raises:
        ValueError: for a number or choice outside what is accepted; names the key.

    Example:
        >>> x = torch.rand(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))
        >>> context = DistillContext(data_samples=(), strides=(8,), batch_shape=(48, 48))
        >>> loss = CRGLoss()
        >>> loss.bind(PyramidSpec(strides=(8,), student_channels=(8,), teacher_channels=(8,), name='crg'))
        >>> {term: round(value.item(), 4) for term, value in loss((x,), (x,), context).items()}
        {'vertex': 0.0, 'edge': 0.0, 'spectral': 0.0}
    """

    def __init__(
        self,
        vertex_weight: float = 10.0,
        edge_weight: float = 1.0,
        spectral_weight: float = 1.0,
        window: int = 4,
        temperature: float | None = 2.0,
        level_weights: LevelWeights = 'area',
    ) -> None:
        super().__init__()
        self.weights = term_weights(vertex=vertex_weight, edge=edge_weight, spectral=spectral_weight)
        check_integer('window', window, 1)
        if temperature is not None:
            check_number('temperature', temperature, positive=True)
        self.window, self.temperature, self.level_weights = window, temperature, level_weights

    def bind(self, spec: PyramidSpec) -> None:
        """Read ``level_weights`` for the paired levels."""
        self.shares = level_shares(self.level_weights, spec.strides, spec.name)

    def forward(self, student: Pyramid, teacher: Pyramid, context: DistillContext) -> dict[str, Tensor]:
        """Terms ``vertex``, ``edge`` and ``spectral`` of levels (N, C_l, H_l, W_l), as far as switched on."""
        windows = [
            self._windows([student[i] for i in group], [teacher[i] for i in group], context, group)
            for group in self._groups(teacher)
        ]
        values = {}
        if self.weights['vertex']:
            values['vertex'] = vertex_value(windows)
        if self.weights['edge'] or self.weights['spectral']:
            rows = [[unit_rows(x, w.levels) for x in (w.student, w.teacher)] for w in windows]
            shares = [w.weights() for w in windows]
            for term, shape in (('edge', edge_values), ('spectral', spectral_values)):
                if self.weights[term]:
                    values[term] = total(
                        (share * shape(s, t)).sum() for share, (s, t) in zip(shares, rows, strict=True)
                    )
        return {term: self.weights[term] * value for term, value in values.items()}

    def _groups(self, levels: Pyramid) -> list[list[int]]:
        """Levels whose windows have the same channels and cells: all, but for maps smaller than a window."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, (_, channels, height, width) in enumerate(x.shape for x in levels):
            groups.setdefault((channels, min(height, self.window), min(width, self.window)), []).append(i)
        return [*groups.values()]

    def _windows(
        self, student: list[Tensor], teacher: list[Tensor], context: DistillContext, group: list[int]
    ) -> _Windows:
        """The windows of a group of levels, weighted by the teacher's attention; the weight of padding is 0."""

        def cut(maps: Iterable[Tensor]) -> list[Tensor]:
            return [cut_windows(x, self.window).mT for x in maps]  # cells first, as in memory

        inside = [context.inside(x, context.strides[i]).float() for i, x in zip(group, teacher, strict=True)]
        parts = cut(inside)
        device = teacher[0].device
        levels = WindowLevels([x.shape[1] for x in parts], device)
        valid = torch.cat(parts, dim=1).squeeze(-1).to(device, non_blocking=True)
        s, t = (torch.cat(cut(x), dim=1).mT for x in (student, teacher))
        t = t.masked_fill(valid.unsqueeze(2) == 0, 0)
        filled = valid.sum(-1)
        counts = levels.sums(filled)
        shares = torch.tensor([self.shares[i] for i in group], dtype=t.dtype).to(device, non_blocking=True)
        if self.temperature is None:
            cells, channels = valid, t.new_ones(len(t), len(group), t.shape[2])
        else:
            activity = t.abs()
            cells = window_attention(activity.mean(2), valid, counts, levels, self.temperature)
            channels = levels.sums(activity.sum(3)).flatten(0, 1).unsqueeze(-1)
            channels = channel_attention(channels, self.temperature, normalize=True).view(len(t), len(group), -1)
        root = cells.sqrt().unsqueeze(2)
        return _Windows(s * root, t * root, filled, counts, channels, levels, shares)


def vertex_value(windows: list[_Windows]) -> Tensor:
    """Weighted squared differences of the features over the teacher's energy, mean over the images."""

    def energy(features: Tensor, w: _Windows) -> Tensor:
        """(N, S) weighted mean squares over the valid cells and the channels."""
        squares = features.square().sum(3) * w.levels.spread(w.channels)
        return w.levels.sums(squares.mean(2)) / w.counts

    errors = torch.cat([energy(w.student - w.teacher, w) for w in windows], dim=1)
    energies = torch.cat([energy(w.teacher, w) for w in windows], dim=1)
    shares = torch.cat([w.shares for w in windows])
    return (vertex_distance(errors.T, energies.T).mean(dim=1) * shares).sum()


def edge_values(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of the cosines over the teacher's energy, of unit rows (N, K, C, L): (N, K)."""
    distance, energy = edge_distance(student, teacher)
    # Unit rows without a dead one have at least that energy.
    return distance / energy.clamp(min=teacher.shape[2] ** 2 / teacher.shape[3])


def spectral_values(student: Tensor, teacher: Tensor) -> Tensor:
    """Difference in the teacher's spectral embedding over the embedding's own, of unit rows (N, K, C, L): (N, K)."""
    distance, energy = spectral_distance(student, teacher)
    return distance / energy.clamp(min=STRUCTURELESS)


def vertex_distance(errors: Tensor, energies: Tensor) -> Tensor:
    """Errors as shares of the teacher's energy; of a level that is nearly dead, of a thousandth of the mean level's.

    Args:
        errors: (L, N) weighted squared differences of L levels and N images.
        energies: (L, N), the teacher's.

    Returns:
        (L, N). Where the teacher is zero on all levels, the errors themselves.

    Example:
        >>> vertex_distance(torch.tensor([[1.0], [0.1]]), torch.tensor([[2.0], [0.0]]))
        tensor([[  0.5000],
                [100.0000]])
    """
    scale = torch.maximum(energies, QUIET * energies.mean(dim=0))
    return errors / torch.where(scale > 0, scale, 1)
