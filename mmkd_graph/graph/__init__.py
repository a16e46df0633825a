"""The mathematics: tensors in, tensors out. Imports torch and the standard library only."""

from .affinity import affinity_from_unit, channel_affinity, unit_vertices
from .attention import channel_attention, relational_attention, spatial_attention
from .laplacian import adjacency, normalized_laplacian
from .multihead import attend, attention_graphs, graph_divergence
from .singular import align_vectors, leading_vectors
from .spectral import (
    Spectrum,
    heat_distance,
    projection_distance,
    residual_distance,
    spectral_embedding,
    spectral_projector,
)
from .tuples import Tuples, center_divergence, pairwise_distance, semihard_tuples, tuple_divergence

__all__ = [
    'Spectrum',
    'Tuples',
    'adjacency',
    'affinity_from_unit',
    'align_vectors',
    'attend',
    'attention_graphs',
    'center_divergence',
    'channel_affinity',
    'channel_attention',
    'graph_divergence',
    'heat_distance',
    'leading_vectors',
    'normalized_laplacian',
    'pairwise_distance',
    'projection_distance',
    'relational_attention',
    'residual_distance',
    'semihard_tuples',
    'spatial_attention',
    'spectral_embedding',
    'spectral_projector',
    'tuple_divergence',
    'unit_vertices',
]
