"""The mathematics: tensors in, tensors out. Imports torch and the standard library only."""

from .affinity import affinity_from_unit, channel_affinity, unit_vertices
from .attention import channel_attention, relational_attention, spatial_attention
from .contrast import info_nce
from .laplacian import adjacency, laplacian_product, normalized_laplacian
from .lowpass import low_pass, low_pass_kernel, multi_scale_low_pass
from .masks import background_mask, foreground_mask, random_mask
from .matching import ChannelGraphs, channel_graphs
from .multihead import attend, attention_graphs, graph_divergence
from .singular import align_vectors, leading_vectors
from .spectral import (
    Spectrum,
    heat_distance,
    projection_distance,
    residual_distance,
    residual_of_weights,
    spectral_embedding,
    spectral_projector,
)
from .tuples import Tuples, center_divergence, pairwise_distance, semihard_tuples, tuple_divergence

__all__ = [
    'ChannelGraphs',
    'Spectrum',
    'Tuples',
    'adjacency',
    'affinity_from_unit',
    'align_vectors',
    'attend',
    'attention_graphs',
    'background_mask',
    'center_divergence',
    'channel_affinity',
    'channel_attention',
    'channel_graphs',
    'foreground_mask',
    'graph_divergence',
    'heat_distance',
    'info_nce',
    'laplacian_product',
    'leading_vectors',
    'low_pass',
    'low_pass_kernel',
    'multi_scale_low_pass',
    'normalized_laplacian',
    'pairwise_distance',
    'projection_distance',
    'random_mask',
    'relational_attention',
    'residual_distance',
    'residual_of_weights',
    'semihard_tuples',
    'spatial_attention',
    'spectral_embedding',
    'spectral_projector',
    'tuple_divergence',
    'unit_vertices',
]
