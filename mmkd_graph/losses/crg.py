"""CRG: channels relational graph distillation (arXiv 2405.08547), on windows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from mmkd_graph.graph import channel_attention, spatial_attention
from mmkd_graph.graph.arguments import check_integer, check_number
from mmkd_graph.graph.windows import cut_windows, edge_distance, spectral_distance, unit_rows
from mmkd_graph.registry import MODELS

from .base import DistillContext, LevelWeights, Pyramid, PyramidLoss, PyramidSpec, level_shares, term_weights, total

QUIET = 1e-3
"""A level whose energy is below this share of the mean level's counts no more than one that has as much."""

STRUCTURELESS = 1e-6
"""Energy of a spectral embedding below which a window is constant, within rounding of float32."""


class _Level(NamedTuple):
    """Features (N, C, H, W) of both sides times the root of the cells' weights, which are 1 on average where valid."""

    student: Tensor
    teacher: Tensor
    valid: Tensor  # (N, 1, H, W)
    channels: Tensor  # (N, C), weights that are 1 on average


class _Windows(NamedTuple):
    """Unit rows (N, K, C, L) of both sides in K windows, and how many cells of each are valid (N, K)."""

    student: Tensor
    teacher: Tensor
    cells: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """Of (N, K) values, by valid cells."""
        return (values * self.cells).sum() / self.cells.sum()


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
    images, levels by ``level_weights``. No matrix of channels × channels is made.

    Args:
        vertex_weight: α; 0 switches the term off, as with the other two. At 10 the gradients of loss and task are about
            equal at the start of training on the small sets.
        edge_weight: β. Equal to α it cost more than one point of AP on one of two sets; a tenth of α cost nothing
            (measured with version 0.1).
        spectral_weight: γ, as β. Edges and spectrum alone gain 1.6 ± 1.2 AP on VOC 2007, five seeds at a ratio of 0.5;
            beside the vertices 0.1 ± 0.5.
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
        levels = [
            self._weighted(s, t, context.valid_cells(t, stride))
            for s, t, stride in zip(student, teacher, context.strides, strict=True)
        ]
        values: dict[str, Iterable[Tensor]] = {}
        if self.weights['vertex']:
            values['vertex'] = vertex_values(levels)
        if self.weights['edge'] or self.weights['spectral']:
            graphs = [self._windows(level) for level in levels]
            for term, value in (('edge', edge_value), ('spectral', spectral_value)):
                if self.weights[term]:
                    values[term] = [value(graph) for graph in graphs]
        return {
            term: self.weights[term] * total(share * value for share, value in zip(self.shares, of_levels, strict=True))
            for term, of_levels in values.items()
        }

    def _weighted(self, student: Tensor, teacher: Tensor, valid: Tensor) -> _Level:
        """Both sides times the root of the teacher's spatial attention, which is 0 for padding; channel attention."""
        teacher = torch.where(valid, teacher, 0)
        if self.temperature is None:
            cells, channels = valid.to(teacher), torch.ones_like(teacher[:, :, 0, 0])
        else:
            cells = spatial_attention(teacher, self.temperature, normalize=True, valid=valid)
            channels = channel_attention(teacher, self.temperature, normalize=True).flatten(1)
        root = cells.sqrt()
        return _Level(student * root, teacher * root, valid, channels)

    def _windows(self, level: _Level) -> _Windows:
        s, t = (unit_rows(cut_windows(x, self.window)) for x in (level.student, level.teacher))
        return _Windows(s, t, cells=cut_windows(level.valid.to(s), self.window).sum((2, 3)))


def vertex_values(levels: list[_Level]) -> Tensor:
    """Weighted squared differences of the features over the teacher's energy: (L,), means over the images."""

    def energy(features: Tensor, level: _Level) -> Tensor:
        """(N,) weighted mean squares over the valid cells and the channels."""
        squares = features.square().sum((2, 3)) / level.valid.sum((2, 3))
        return (squares * level.channels).mean(dim=1)

    errors = torch.stack([energy(x.student - x.teacher, x) for x in levels])
    energies = torch.stack([energy(x.teacher, x) for x in levels])
    return vertex_distance(errors, energies).mean(dim=1)


def edge_value(windows: _Windows) -> Tensor:
    """Squared difference of the cosines over the teacher's energy."""
    distance, energy = edge_distance(windows.student, windows.teacher)
    # Unit rows without a dead one have at least that energy.
    least = windows.teacher.shape[2] ** 2 / windows.teacher.shape[3]
    return windows.mean(distance / energy.clamp(min=least))


def spectral_value(windows: _Windows) -> Tensor:
    """Difference in the teacher's spectral embedding over the embedding's own."""
    distance, energy = spectral_distance(windows.student, windows.teacher)
    return windows.mean(distance / energy.clamp(min=STRUCTURELESS))


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
