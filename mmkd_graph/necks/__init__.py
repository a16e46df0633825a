"""Necks: pyramid in, pyramid out."""

from .pyramid_adapter import PyramidAdapter

__all__ = ['PyramidAdapter']
