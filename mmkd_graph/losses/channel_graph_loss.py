"""CRG: channels relational graph distillation (arXiv 2405.08547)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkd_graph.graph import (
    adjacency,
    affinity_from_unit,
    channel_attention,
    heat_distance,
    normalized_laplacian,
    projection_distance,
    relational_attention,
    residual_distance,
    spatial_attention,
    spectral_embedding,
    unit_vertices,
)
from mmkd_graph.registry import MODELS

from .interface import DistillContext, Pyramid, PyramidLoss, PyramidSpec

_CHOICES = {
    'vertex': ('unit', 'raw'),
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
        vertex: ``'unit'`` compares unit vertices, 1 - cos; ``'raw'`` compares features, a weighted MSE.
        affinity: ``'cosine'``, ``'pearson'`` or ``'rbf'``.
        graph: one graph per ``'image'``, or one per ``'batch'`` (channels flattened over the images too).
        weights: how the affinity becomes non-negative edge weights: ``'clamp'``, ``'shift'`` or ``'abs'``.
        knn: keep only the edges to each channel's nearest neighbours; ``None`` keeps all.
        k: number of eigenvectors in the embedding, at most the channels less one.
        skip_trivial: leave the eigenvector of the smallest eigenvalue out.
        distance: ``'residual'`` (the teacher's embedding in the student's Laplacian; no eigensolver on the student),
            ``'projection'`` (the embeddings as subspaces; sees extra small eigenvalues of the student, which the
            residual does not), or ``'heat'`` (the residual over the whole spectrum, no eigensolver at all).
        solver: ``'subspace'`` (block iteration, k up to about 28) or ``'exact'`` (``torch.linalg.eigh``).
        diffusion_time: t of the weights exp(-t λ); 0 weighs the k eigenvectors alike.
        spatial_attention: weigh positions by the teacher's spatial attention, in all three terms.
        channel_attention: weigh the channels of the vertex term by the teacher's channel attention.
        relational_attention: weigh the edges by the teacher's relational attention.
        temperature: of the three softmaxes.
        level_weights: one weight per paired level, finest first, normalised to mean 1; default: all alike.

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
        vertex_weight: float = 1.0,
        edge_weight: float = 1.0,
        spectral_weight: float = 1.0,
        vertex: str = 'unit',
        affinity: str = 'cosine',
        graph: str = 'image',
        weights: str = 'clamp',
        knn: int | None = None,
        k: int = 16,
        skip_trivial: bool = False,
        distance: str = 'residual',
        solver: str = 'subspace',
        diffusion_time: float = 0.0,
        spatial_attention: bool = True,
        channel_attention: bool = True,
        relational_attention: bool = True,
        temperature: float = 0.5,
        level_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        given = dict(vertex=vertex, affinity=affinity, graph=graph, weights=weights, distance=distance, solver=solver)
        for key, value in given.items():
            if value not in _CHOICES[key]:
                raise ValueError(f'{key}={value!r}; accepted: {", ".join(map(repr, _CHOICES[key]))}')
        term_weights = dict(vertex_weight=vertex_weight, edge_weight=edge_weight, spectral_weight=spectral_weight)
        for key, value in {**term_weights, 'diffusion_time': diffusion_time}.items():
            if value < 0:
                raise ValueError(f'{key}={value}; accepted: a number >= 0')
        if not any(term_weights.values()):
            raise ValueError(
                'vertex_weight, edge_weight and spectral_weight are all 0: nothing is left; accepted: at least one '
                '> 0 (loss_weight=0 switches the whole loss off)'
            )
        if k < 1:
            raise ValueError(f'k={k}; accepted: an integer >= 1')
        if knn is not None and knn < 1:
            raise ValueError(f'knn={knn}; accepted: None or an integer >= 1')
        if temperature <= 0:
            raise ValueError(f'temperature={temperature}; accepted: a number > 0')
        self.vertex_weight, self.edge_weight, self.spectral_weight = vertex_weight, edge_weight, spectral_weight
        self.vertex, self.affinity, self.graph, self.weights = vertex, affinity, graph, weights
        self.knn, self.k, self.skip_trivial = knn, k, skip_trivial
        self.distance, self.solver, self.diffusion_time = distance, solver, diffusion_time
        self.spatial_attention, self.channel_attention = spatial_attention, channel_attention
        self.relational_attention, self.temperature = relational_attention, temperature
        self.level_weights = level_weights

    def bind(self, spec: PyramidSpec) -> None:
        """Check ``level_weights`` against the paired levels."""
        if self.level_weights is None:
            return
        if len(self.level_weights) != len(spec.strides) or sum(self.level_weights) <= 0:
            raise ValueError(
                f'losses.{spec.name}.level_weights={self.level_weights}; accepted: one number per paired level, '
                f'{len(spec.strides)} of them for the strides {spec.strides}, not all 0'
            )

    def forward(self, student: Pyramid, teacher: Pyramid, context: DistillContext) -> dict[str, Tensor]:
        """Terms ``vertex``, ``edge`` and ``spectral`` of levels (N, C_l, H_l, W_l), as far as switched on."""
        level_weights = self.level_weights or [1.0] * len(student)
        total = sum(level_weights)
        terms: dict[str, Tensor] = {}
        for weight, s, t in zip(level_weights, student, teacher, strict=True):
            with torch.autocast(s.device.type, enabled=False):
                for name, value in self._level(s.float(), t.detach().float()).items():
                    terms[name] = terms.get(name, 0) + value * (weight / total)
        return terms

    def _level(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        terms = {}
        position = spatial_attention(teacher, self.temperature) if self.spatial_attention else None
        kind = 'pearson' if self.affinity == 'pearson' else 'cosine'
        unit_s = unit_vertices(student, kind, position, self.graph)
        unit_t = unit_vertices(teacher, kind, position, self.graph)
        if self.vertex_weight:
            terms['vertex'] = self.vertex_weight * self._vertex(student, teacher, unit_s, unit_t, position)
        if not (self.edge_weight or self.spectral_weight):
            return terms
        affinity_s, affinity_t = affinity_from_unit(unit_s, self.affinity), affinity_from_unit(unit_t, self.affinity)
        if self.edge_weight:
            squared = (affinity_s - affinity_t).square()
            if self.relational_attention:
                squared = squared * relational_attention(affinity_t, self.temperature)
            terms['edge'] = self.edge_weight * squared.mean()
        if self.spectral_weight:
            terms['spectral'] = self.spectral_weight * self._spectral(affinity_s, affinity_t)
        return terms

    def _vertex(
        self, student: Tensor, teacher: Tensor, unit_s: Tensor, unit_t: Tensor, position: Tensor | None
    ) -> Tensor:
        if self.vertex == 'raw':
            distance = (student - teacher).square()
            if position is not None:
                distance = distance * position
            distance = distance.mean(dim=(2, 3))
        else:
            distance = 1 - (unit_s * unit_t).sum(dim=2)
        if self.channel_attention:
            attention = channel_attention(teacher, self.temperature).flatten(1)
            if distance.shape[0] != attention.shape[0]:  # one graph per batch
                attention = attention.mean(dim=0, keepdim=True)
            distance = distance * attention
        return distance.mean()

    def _spectral(self, affinity_s: Tensor, affinity_t: Tensor) -> Tensor:
        laplacian_s, laplacian_t = (
            normalized_laplacian(adjacency(a, self.weights, self.knn)) for a in (affinity_s, affinity_t)
        )
        if self.distance == 'heat':
            return heat_distance(laplacian_s, laplacian_t, self.diffusion_time).mean()
        options = dict(k=self.k, solver=self.solver, skip_trivial=self.skip_trivial)
        if self.distance == 'projection':
            return projection_distance(laplacian_s, laplacian_t, diffusion_time=self.diffusion_time, **options).mean()
        spectrum = spectral_embedding(laplacian_t, **options)
        return residual_distance(laplacian_s, laplacian_t, spectrum, self.diffusion_time).mean()
