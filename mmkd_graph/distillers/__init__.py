"""The detector wrapper, the frozen teacher, the feature taps, and loss weights found by measurement."""

from .gradient_norms import GradientNorms, gradient_norms
from .gradient_ratio import GradientRatio
from .graph_distiller import GraphDistiller
from .teacher import FrozenTeacher

__all__ = ['FrozenTeacher', 'GradientNorms', 'GradientRatio', 'GraphDistiller', 'gradient_norms']
