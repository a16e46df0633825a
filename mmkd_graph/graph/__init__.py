"""The mathematics: tensors in, tensors out. Imports torch and the standard library only."""

from .attention import channel_attention, spatial_attention
from .contrast import info_nce
from .lowpass import low_pass
from .masks import background_mask, foreground_mask, random_mask
from .multihead import attend, attention_graphs, graph_divergence
from .samples import kl_divergence, mean_of_samples, unit_length
from .singular import align_vectors, leading_vectors
from .tuples import Tuples, center_divergence, pairwise_distance, semihard_tuples, tuple_divergence
from .windows import Spectrum, cut_windows, edge_distance, spectral_distance, spectrum, unit_rows

__all__ = [
    'Spectrum',
    'Tuples',
    'align_vectors',
    'attend',
    'attention_graphs',
    'background_mask',
    'center_divergence',
    'channel_attention',
    'cut_windows',
    'edge_distance',
    'foreground_mask',
    'graph_divergence',
    'info_nce',
    'kl_divergence',
    'leading_vectors',
    'low_pass',
    'mean_of_samples',
    'pairwise_distance',
    'random_mask',
    'semihard_tuples',
    'spatial_attention',
    'spectral_distance',
    'spectrum',
    'tuple_divergence',
    'unit_length',
    'unit_rows',
]
