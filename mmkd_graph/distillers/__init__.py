"""The detector wrapper, the frozen teacher and the feature taps."""

from .graph_distiller import GraphDistiller
from .teacher import FrozenTeacher

__all__ = ['FrozenTeacher', 'GraphDistiller']
