"""Pictures of channel graphs and of training: arrays in, a matplotlib ``Figure`` out, no global state.

``Figure.savefig`` of any of them writes the file.
"""

from .affinities import plot_affinities, spectral_order, window_affinity
from .losses import plot_losses
from .spectra import laplacian_spectrum, plot_spectra

__all__ = ['laplacian_spectrum', 'plot_affinities', 'plot_losses', 'plot_spectra', 'spectral_order', 'window_affinity']
