"""The detector wrapper, the frozen teacher, the feature taps, and loss weights found by measurement."""

from .distiller import GraphDistiller
from .gradient_norms import GradientNorms, gradient_norms
from .gradient_ratio import GradientRatio
from .teacher import FrozenTeacher

__all__ = ['FrozenTeacher', 'GradientNorms', 'GradientRatio', 'GraphDistiller', 'gradient_norms']
