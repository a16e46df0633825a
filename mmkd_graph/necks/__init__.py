"""Necks: pyramid in, pyramid out."""

from .instance_pooling import InstancePooling, Instances, read_instances
from .lowpass_pyramid import LowPassPyramid
from .pyramid_adapter import PyramidAdapter

__all__ = ['InstancePooling', 'Instances', 'LowPassPyramid', 'PyramidAdapter', 'read_instances']
