"""Channel-graph and spectral-embedding distillation for MMDetection 3.x."""

__version__ = '0.2.0.dev0'
