"""Necks: pyramid in, pyramid out."""

from .instance_pooling import InstancePooling, Instances, read_instances
from .pyramid_adapter import PyramidAdapter

__all__ = ['InstancePooling', 'Instances', 'PyramidAdapter', 'read_instances']
