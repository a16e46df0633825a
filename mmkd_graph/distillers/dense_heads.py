"""Dense heads: which of them can be compared, what they predict, and heads that begin in the middle of their towers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.models.dense_heads import (
    ATSSHead,
    DETRHead,
    FCOSHead,
    GFLHead,
    PAAHead,
    RetinaHead,
    RTMDetHead,
    TOODHead,
    VFNetHead,
    YOLOXHead,
)
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn

from mmkd_graph.losses.base import Pyramid

SCORED = (RetinaHead, FCOSHead, ATSSHead, GFLHead, PAAHead, TOODHead, VFNetHead, RTMDetHead, YOLOXHead)
"""Heads whose class scores can be compared."""
CROSSED = (RetinaHead, FCOSHead, ATSSHead, GFLHead, PAAHead, VFNetHead)
"""Those of them that begin with two towers, lists of convolutions that all levels share."""
TOWERS = ('cls_convs', 'reg_convs')


def dense_head(detector: nn.Module, side: str) -> nn.Module:
    """The head of the ``side``, student or teacher, that predicts for every place of its levels.

    Raises:
        ValueError: if it has none, or one that is not known.
    """
    kind, head = type(detector).__name__, getattr(detector, 'bbox_head', None)
    accepted = f'accepted: detectors whose bbox_head is one of {listed(SCORED)}'
    if getattr(detector, 'roi_head', None) is not None:
        raise ValueError(
            f'the {side} ({kind}) has two stages, and its second one predicts for proposals, which the two detectors '
            f'do not share; {accepted}'
        )
    if isinstance(head, DETRHead):
        raise ValueError(
            f'the {side} ({kind}) predicts for queries, and which query of the student belongs to which of the teacher '
            f'is not known; {accepted}'
        )
    if not isinstance(head, SCORED):
        found = 'no bbox_head' if head is None else f'a {type(head).__name__} as bbox_head'
        raise ValueError(f'the {side} ({kind}) has {found}; {accepted}')
    return head


def strides(head: nn.Module) -> tuple[int, ...]:
    """Of its levels, in input pixels per cell."""
    return tuple(x[0] if isinstance(x, Sequence) else x for x in head.prior_generator.strides)


def anchors(head: nn.Module) -> int | list[str]:
    """How many there are per cell; of several, which are compared each with its like, the sizes on the first level."""
    count = head.prior_generator.num_base_priors[0]
    if count == 1:
        return count
    return [f'{x2 - x1:.0f}x{y2 - y1:.0f}' for x1, y1, x2, y2 in head.prior_generator.base_anchors[0].tolist()]


def bins(head: nn.Module) -> int | None:
    """Values of a box edge of which it predicts a distribution; ``None``: it predicts the edge itself."""
    return head.reg_max + 1 if isinstance(head, GFLHead) else None


def read(head: nn.Module, output: Any, side: str, with_boxes: bool = False) -> tuple[Pyramid, Pyramid]:
    """Class scores (N, A * K, H, W) in the ``output`` of the head of a ``side``, and boxes as it predicts them.

    A class that is derived from one of mmdet's may give anything.

    Raises:
        ValueError: if it is not what mmdet's own heads give.
    """
    a, k = head.prior_generator.num_base_priors[0], head.num_classes + (not head.use_sigmoid_cls)
    wanted = [('class scores', a * k)] + [('boxes', a * 4 * (bins(head) or 1))] * with_boxes
    parts: list[Pyramid] = []
    for i, (what, channels) in enumerate(wanted):
        levels = output[i] if isinstance(output, Sequence) and len(output) > i else None
        shapes = [tuple(x.shape) for x in levels if isinstance(x, Tensor)] if isinstance(levels, Sequence) else []
        if [x[1:2] for x in shapes] != [(channels,)] * len(strides(head)):
            raise ValueError(
                f"the {side}'s {described(head)} gives {shapes or type(output).__name__} where mmdet's give {what}; "
                f'accepted: (N, {channels}, H, W) for each of the strides {strides(head)}, in place {i} of a tuple'
            )
        parts.append(tuple(levels))
    return parts[0], parts[1] if with_boxes else ()


def crossed(head: nn.Module, features: Sequence[Sequence[Tensor]], stage: int) -> Any:
    """What ``head`` predicts if both towers begin behind ``stage`` convolutions, with these features.

    Args:
        head: one of :data:`CROSSED`.
        features: of both towers, level by level (N, C, H, W).
        stage: convolutions that are left out.
    """
    towers = {name: getattr(head, name) for name in TOWERS}
    try:
        for (name, tower), levels in zip(towers.items(), features, strict=True):
            setattr(head, name, nn.ModuleList([_Feed(levels), *tower[stage:]]))
        return head(tuple(features[0]))
    finally:
        for name, tower in towers.items():
            setattr(head, name, tower)


class _Feed(nn.Module):
    """Gives one level after the other, whatever it is given."""

    def __init__(self, levels: Sequence[Tensor]) -> None:
        super().__init__()
        self._levels = iter(levels)

    def forward(self, _: Tensor) -> Tensor:
        return next(self._levels)


def decoded(head: nn.Module, boxes: Sequence[Tensor]) -> Pyramid:
    """Corners (N, A * 4, H, W) in pixels, of what a head in eval mode predicts (FCOS has other units in training)."""
    boxes = [level.float() for level in boxes]
    priors = head.prior_generator.grid_priors([x.shape[-2:] for x in boxes], device=boxes[0].device)
    corners = []
    for level, prior in zip(boxes, priors, strict=True):
        places = level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2)  # (N, H, W, A, 4), in the order of the priors
        flat = head.bbox_coder.decode(get_box_tensor(prior).repeat(len(level), 1), places.reshape(-1, 4))
        corners.append(get_box_tensor(flat).view_as(places).permute(0, 3, 4, 1, 2).flatten(1, 2))
    return tuple(corners)


def listed(kinds: Sequence[type]) -> str:
    """Their names, for messages."""
    return ', '.join(kind.__name__ for kind in kinds)


def described(head: nn.Module) -> str:
    """For messages."""
    return f'bbox_head ({type(head).__name__})'
