"""The mathematics: tensors in, tensors out. Imports torch and the standard library only."""

from .affinity import affinity_from_unit, channel_affinity, unit_vertices
from .attention import channel_attention, relational_attention, spatial_attention
from .contrast import info_nce
from .laplacian import adjacency, normalized_laplacian
from .lowpass import low_pass, low_pass_kernel, multi_scale_low_pass
from .spectral import (
    Spectrum,
    heat_distance,
    projection_distance,
    residual_distance,
    spectral_embedding,
    spectral_projector,
)

__all__ = [
    'Spectrum',
    'adjacency',
    'affinity_from_unit',
    'channel_affinity',
    'channel_attention',
    'heat_distance',
    'info_nce',
    'low_pass',
    'low_pass_kernel',
    'multi_scale_low_pass',
    'normalized_laplacian',
    'projection_distance',
    'relational_attention',
    'residual_distance',
    'spatial_attention',
    'spectral_embedding',
    'spectral_projector',
    'unit_vertices',
]
