"""The generated demonstration set, in COCO and VOC layouts."""

from .scene import CLASSES, Scene, render_scene
from .shapes import generate_shapes

__all__ = ['CLASSES', 'Scene', 'generate_shapes', 'render_scene']
