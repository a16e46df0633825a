"""CRG: channels relational graph distillation (arXiv 2405.08547)."""

from __future__ import annotations

import torch
from torch import Tensor

from mmkd_graph.graph import (
    adjacency,
    channel_attention,
    channel_graphs,
    heat_distance,
    normalized_laplacian,
    projection_distance,
    relational_attention,
    residual_of_weights,
    spatial_attention,
    spectral_embedding,
)
from mmkd_graph.graph.arguments import check_choice, check_integer, check_number
from mmkd_graph.graph.solvers import MAX_BLOCK, MAX_SUBSPACE_RANK
from mmkd_graph.registry import MODELS

from .interface import DistillContext, LevelWeights, Pyramid, PyramidLoss, PyramidSpec, level_shares

TAPERED_DEGREE = 4
"""Degree of the block iteration where the embedding is tapered: errors of 1e-4 with a gap or without one."""

_DEAD = 1e-12
"""Mean square of a teacher's features below which nothing is measured by it."""

_CHOICES = {
    'vertex': ('relative', 'unit', 'raw'),
    'affinity': ('cosine', 'pearson', 'rbf'),
    'graph': ('image', 'batch'),
    'weights': ('clamp', 'shift', 'abs'),
    'distance': ('residual', 'projection', 'heat'),
    'solver': ('subspace', 'exact'),
}


@MODELS.register_module()
class ChannelGraphLoss(PyramidLoss):
    r"""Vertices, edges and spectral embedding of the graph whose vertices are the channels of a level.

    :math:`\alpha L_V + \beta L_E + \gamma L_S`, each averaged over images and levels (arXiv 2405.08547). A weight
    of 0 switches the term off and nothing of it is computed. All of it runs in float32 under autocast.

    Args:
        vertex_weight: :math:`\alpha`, of the distance between matched channels.
        edge_weight: :math:`\beta`, of the squared difference between the affinity matrices, a mean over the entries.
        spectral_weight: :math:`\gamma`, of the distance between the spectral embeddings.
        vertex: ``'relative'`` compares features, their squared difference as a share of the teacher's energy on the
            level; ``'unit'`` compares unit vertices, 1 - cos; ``'raw'`` is a weighted MSE in the features' own unit.
        affinity: ``'cosine'``, ``'pearson'`` or ``'rbf'``.
        graph: one graph per ``'image'``, or one per ``'batch'`` (channels flattened over the images too).
        weights: how the affinity becomes non-negative edge weights: ``'clamp'``, ``'shift'`` or ``'abs'``.
        knn: keep only the edges to each channel's nearest neighbours; ``None`` keeps all.
        k: number of eigenvectors in the embedding, at most the channels less one.
        skip_trivial: leave the eigenvector of the smallest eigenvalue out. Of a graph of several components that is an
            arbitrary one; ``weights='shift'`` makes every graph connected.
        distance: ``'residual'`` (the teacher's embedding in the student's Laplacian; no eigensolver on the student),
            ``'projection'`` (the embeddings as subspaces; sees extra small eigenvalues of the student, which the
            residual does not), or ``'heat'`` (the residual over the whole spectrum, no eigensolver at all).
        solver: ``'subspace'`` (block iteration, k up to 27) or ``'exact'`` (``torch.linalg.eigh``).
        diffusion_time: t of the weights exp(-t λ).
        taper: let the weights of ``'residual'`` fall to 0 at the first eigenvalue that is left out; without it the
            k eigenvectors weigh alike, and where no gap follows them the value depends on rounding.
        spatial_attention: weigh positions by the teacher's spatial attention, in all three terms.
        channel_attention: weigh the channels of the vertex term by the teacher's channel attention.
        relational_attention: weigh the edges by the teacher's relational attention.
        temperature: of the three softmaxes: over activities divided by their mean, and over affinities.
        level_weights: ``'cells'``, ``'alike'``, or one number per paired level, finest first: see
            :func:`~mmkd_graph.losses.interface.level_shares`. The loss is a weighted mean over the levels.

    Raises:
        ValueError: for a choice or number outside what is accepted; names the key.

    Example:
        >>> import torch
        >>> loss = ChannelGraphLoss(k=4, solver='exact')
        >>> x = torch.rand(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))
        >>> context = DistillContext(data_samples=(), strides=(8,), batch_shape=(48, 48))
        >>> {term: round(value.item(), 4) for term, value in loss((x,), (x,), context).items()}
        {'vertex': 0.0, 'edge': 0.0, 'spectral': 0.0}
    """

    def __init__(
        self,
        vertex_weight: float = 10.0,
        edge_weight: float = 1.0,
        spectral_weight: float = 10.0,
        vertex: str = 'relative',
        affinity: str = 'cosine',
        graph: str = 'image',
        weights: str = 'clamp',
        knn: int | None = None,
        k: int = 16,
        skip_trivial: bool = False,
        distance: str = 'residual',
        solver: str = 'subspace',
        diffusion_time: float = 0.0,
        taper: bool = True,
        spatial_attention: bool = True,
        channel_attention: bool = True,
        relational_attention: bool = True,
        temperature: float = 2.0,
        level_weights: LevelWeights = 'cells',
    ) -> None:
        super().__init__()
        given = dict(vertex=vertex, affinity=affinity, graph=graph, weights=weights, distance=distance, solver=solver)
        for key, value in given.items():
            check_choice(key, value, _CHOICES[key])
        term_weights = dict(vertex_weight=vertex_weight, edge_weight=edge_weight, spectral_weight=spectral_weight)
        for key, value in {**term_weights, 'diffusion_time': diffusion_time}.items():
            check_number(key, value)
        if not any(term_weights.values()):
            raise ValueError(
                'vertex_weight, edge_weight and spectral_weight are all 0: nothing is left; accepted: at least one '
                '> 0 (loss_weight=0 switches the whole loss off)'
            )
        check_integer('k', k, 1)
        if knn is not None:
            check_integer('knn', knn, 1)
        check_number('temperature', temperature, positive=True)
        self.vertex_weight, self.edge_weight, self.spectral_weight = vertex_weight, edge_weight, spectral_weight
        self.vertex, self.affinity, self.graph, self.weights = vertex, affinity, graph, weights
        self.knn, self.k, self.skip_trivial = knn, k, skip_trivial
        self.distance, self.solver, self.diffusion_time = distance, solver, diffusion_time
        self.taper = taper
        self.spatial_attention, self.channel_attention = spatial_attention, channel_attention
        self.relational_attention, self.temperature = relational_attention, temperature
        self.level_weights = level_weights

    def bind(self, spec: PyramidSpec) -> None:
        """Check ``level_weights`` and ``k`` against the paired levels."""
        level_shares(self.level_weights, spec.strides, f'losses.{spec.name}.level_weights')
        most = MAX_SUBSPACE_RANK - int(self.skip_trivial) - int(self._tapers)
        decomposed = self.spectral_weight and self.distance != 'heat' and self.solver == 'subspace'
        if decomposed and self.k > most and max(spec.teacher_channels) > MAX_BLOCK:
            raise ValueError(f"losses.{spec.name}.k={self.k}; accepted: at most {most}, or any with solver='exact'")

    @property
    def _tapers(self) -> bool:
        return self.taper and self.distance == 'residual'

    def forward(self, student: Pyramid, teacher: Pyramid, context: DistillContext) -> dict[str, Tensor]:
        """Terms ``vertex``, ``edge`` and ``spectral`` of levels (N, C_l, H_l, W_l), as far as switched on."""
        shares = level_shares(self.level_weights, context.strides)
        terms: dict[str, Tensor] = {}
        # Graphs of equally many channels are compared in one go, whatever level they come from.
        graphs: dict[int, list[tuple[float, Tensor, Tensor]]] = {}
        edges = bool(self.edge_weight or self.spectral_weight)
        matched = bool(self.vertex_weight) and self.vertex == 'unit'
        with torch.autocast(student[0].device.type, enabled=False):
            for share, s, t in zip(shares, student, teacher, strict=True):
                s, t = s.float(), t.detach().float()
                position = spatial_attention(t, self.temperature, normalize=True) if self.spatial_attention else None
                cosine = None
                if edges or matched:
                    affinity_s, affinity_t, cosine = channel_graphs(
                        s, t, self.affinity, position, self.graph, edges, matched
                    )
                if self.vertex_weight:
                    terms['vertex'] = terms.get('vertex', 0) + share * self._vertex(s, t, cosine, position)
                if edges:
                    graphs.setdefault(s.shape[1], []).append((share, affinity_s, affinity_t))
            for group in graphs.values():
                part, affinities_s, affinities_t = zip(*group, strict=True)
                sizes = [len(a) for a in affinities_s]
                for name, distances in self._compare(torch.cat(affinities_s), torch.cat(affinities_t)).items():
                    means = [x.mean() * w for x, w in zip(distances.split(sizes), part, strict=True)]
                    terms[name] = terms.get(name, 0) + torch.stack(means).sum()
        weights = dict(vertex=self.vertex_weight, edge=self.edge_weight, spectral=self.spectral_weight)
        return {name: weights[name] * value for name, value in terms.items()}

    def _vertex(self, student: Tensor, teacher: Tensor, cosine: Tensor | None, position: Tensor | None) -> Tensor:
        share = self._channel_shares(teacher)
        if self.vertex == 'unit':
            return (share * (1 - cosine)).mean()
        position = 1 if position is None else position
        error = (share * ((student - teacher).square() * position).mean(dim=(2, 3))).mean(dim=1)
        if self.vertex == 'raw':
            return error.mean()
        energy = (share * (teacher.square() * position).mean(dim=(2, 3))).mean(dim=1)
        if self.graph == 'batch':
            error, energy = error.mean(), energy.mean()
        return (error / torch.where(energy > _DEAD, energy, 1)).mean()

    def _channel_shares(self, teacher: Tensor) -> Tensor | float:
        if not self.channel_attention:
            return 1.0
        share = channel_attention(teacher, self.temperature, normalize=True).flatten(1)
        return share.mean(dim=0, keepdim=True) if self.graph == 'batch' else share

    def _compare(self, affinity_s: Tensor, affinity_t: Tensor) -> dict[str, Tensor]:
        """Distances of shape (B,) between graphs of shape (B, C, C), as far as switched on."""
        distances = {}
        if self.edge_weight:
            squared = (affinity_s - affinity_t).square()
            if self.relational_attention:
                squared = squared * relational_attention(affinity_t, self.temperature)
            distances['edge'] = squared.mean(dim=(1, 2))
        if self.spectral_weight:
            distances['spectral'] = self._spectral(
                adjacency(affinity_s, self.weights, self.knn), adjacency(affinity_t, self.weights, self.knn)
            )
        return distances

    def _spectral(self, weights_s: Tensor, weights_t: Tensor) -> Tensor:
        time, options = self.diffusion_time, dict(solver=self.solver, skip_trivial=self.skip_trivial)
        laplacian_t = normalized_laplacian(weights_t)
        if self.distance == 'heat':
            return heat_distance(normalized_laplacian(weights_s), laplacian_t, time)
        if self.distance == 'projection':
            return projection_distance(normalized_laplacian(weights_s), laplacian_t, self.k, time, **options)
        # With no eigenpair left out there is nothing to taper towards.
        taper = self._tapers and self.k < laplacian_t.shape[-1] - int(self.skip_trivial)
        if taper:  # what the solver finds least exactly weighs least
            options['degree'] = TAPERED_DEGREE
        spectrum = spectral_embedding(laplacian_t, self.k + int(taper), **options)
        return residual_of_weights(weights_s, laplacian_t, spectrum, time, taper)
