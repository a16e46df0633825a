"""Necks: pyramid in, pyramid out."""

from .lowpass_pyramid import LowPassPyramid
from .pyramid_adapter import PyramidAdapter

__all__ = ['LowPassPyramid', 'PyramidAdapter']
