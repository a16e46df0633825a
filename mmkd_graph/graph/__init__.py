"""The mathematics: tensors in, tensors out. Imports torch and the standard library only."""

from .affinity import affinity_from_unit, channel_affinity, unit_vertices
from .attention import channel_attention, relational_attention, spatial_attention
from .laplacian import adjacency, laplacian_product, normalized_laplacian
from .masks import background_mask, foreground_mask, random_mask
from .matching import ChannelGraphs, channel_graphs
from .spectral import (
    Spectrum,
    heat_distance,
    projection_distance,
    residual_distance,
    residual_of_weights,
    spectral_embedding,
    spectral_projector,
)

__all__ = [
    'ChannelGraphs',
    'Spectrum',
    'adjacency',
    'affinity_from_unit',
    'background_mask',
    'channel_affinity',
    'channel_attention',
    'channel_graphs',
    'foreground_mask',
    'heat_distance',
    'laplacian_product',
    'normalized_laplacian',
    'projection_distance',
    'random_mask',
    'relational_attention',
    'residual_distance',
    'residual_of_weights',
    'spatial_attention',
    'spectral_embedding',
    'spectral_projector',
    'unit_vertices',
]
