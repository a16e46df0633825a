"""Boxes of any kind, as the horizontal ones that a pyramid is cut by."""

from __future__ import annotations

import torch
from mmdet.structures.bbox import BaseBoxes
from torch import Tensor

_ACCEPTED = (
    'mmdet boxes with a converter to hbox, or a tensor (K, 4) of x1, y1, x2, y2, (K, 5) of cx, cy, w, h and angle in '
    'radians, or (K, 8) of four corners'
)


def horizontal_boxes(boxes: BaseBoxes | Tensor) -> Tensor:
    """The smallest horizontal boxes around boxes of any kind.

    Args:
        boxes: K boxes of any ``BaseBoxes`` type that can be converted to ``hbox``; or, as ``BoxType2Tensor`` leaves
            them, a tensor (K, 4) of x1, y1, x2, y2, (K, 5) of rotated boxes cx, cy, w, h and angle in radians, or
            (K, 8) of the corners x, y of quadrilaterals. Coordinates are pixels.

    Returns:
        (K, 4) tensor of x1, y1, x2, y2 in pixels.

    Raises:
        ValueError: for boxes of another kind.

    Example:
        >>> horizontal_boxes(torch.tensor([[5.0, 5.0, 4.0, 2.0, torch.pi / 2]])).round()
        tensor([[4., 3., 6., 7.]])
    """
    if isinstance(boxes, BaseBoxes):
        try:
            return boxes.convert_to('hbox').tensor
        except AssertionError as error:  # how mmdet says that a type or a converter is not registered
            raise ValueError(f'boxes of type {type(boxes).__name__}: {error}; accepted: {_ACCEPTED}') from error
    numbers = boxes.shape[-1] if isinstance(boxes, Tensor) and boxes.dim() == 2 else None
    if numbers == 4:
        return boxes
    if numbers == 5:
        center, w, h, angle = boxes.split([2, 1, 1, 1], dim=1)
        cos, sin = angle.cos().abs(), angle.sin().abs()
        half = torch.cat([w * cos + h * sin, w * sin + h * cos], dim=1) / 2
        return torch.cat([center - half, center + half], dim=1)
    if numbers == 8:
        corners = boxes.unflatten(1, (4, 2))
        return torch.cat([corners.amin(1), corners.amax(1)], dim=1)
    shown = f'of shape {tuple(boxes.shape)}' if isinstance(boxes, Tensor) else f'as {type(boxes).__name__}'
    raise ValueError(f'boxes {shown}; accepted: {_ACCEPTED}')
