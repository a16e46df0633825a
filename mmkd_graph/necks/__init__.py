"""Necks: pyramid in, pyramid out."""

from .instance_pooling import Instances, draw_cells, horizontal_boxes, pool_instances, read_instances
from .pyramid_adapter import PyramidAdapter

__all__ = ['Instances', 'PyramidAdapter', 'draw_cells', 'horizontal_boxes', 'pool_instances', 'read_instances']
