"""Necks: pyramid in, pyramid out."""

from .boxes import horizontal_boxes
from .instance_pooling import InstancePooling, Instances, draw_cells, read_instances
from .pyramid_adapter import PyramidAdapter

__all__ = [
    'InstancePooling',
    'Instances',
    'PyramidAdapter',
    'draw_cells',
    'horizontal_boxes',
    'read_instances',
]
