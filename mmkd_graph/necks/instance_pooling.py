"""Instance pooling: the ground-truth instances of a batch, cut out of every level of a pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmcv.ops import RoIAlign
from mmdet.structures.bbox import BaseBoxes
from torch import Tensor

from mmkd_graph.graph.arguments import check_integer
from mmkd_graph.graph.precision import in_full_precision

_ACCEPTED = (
    'mmdet boxes with a converter to hbox, or a tensor (K, 4) of x1, y1, x2, y2, (K, 5) of cx, cy, w, h and angle in '
    'radians, or (K, 8) of four corners'
)


class Instances(NamedTuple):
    """The ground-truth instances of a batch, K in all, image by image.

    Attributes:
        boxes: one (K_i, 4) tensor per image: x1, y1, x2, y2 in pixels of the padded batch input.
        labels: (K,) class indices of the student's data set.
        images: (K,) index of each instance's image in the batch.
    """

    boxes: list[Tensor]
    labels: Tensor
    images: Tensor


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


def read_instances(data_samples: Sequence, max_instances: int | None = None) -> Instances:
    """Boxes, labels and image indices of a batch's ground truth, as plain tensors.

    Only ``gt_instances`` are read: what a data set marks as difficult or crowd is in ``ignored_instances`` and is not
    used. Boxes without area or with a coordinate that is not finite are dropped.

    Args:
        data_samples: ``DetDataSample`` list; boxes of any kind that :func:`horizontal_boxes` takes.
        max_instances: keep at most so many per image, the largest by area. Equal areas are told apart by coordinates
            and label, so the choice does not depend on the order of the instances. ``None`` keeps all.

    Returns:
        The instances, within an image in their given order.

    Raises:
        ValueError: if a sample has no ``gt_instances`` with ``bboxes`` and ``labels``, for boxes of an unknown kind,
            or for ``max_instances`` < 1.

    Example:
        >>> from mmdet.structures import DetDataSample
        >>> from mmengine.structures import InstanceData
        >>> sample = DetDataSample()
        >>> boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [5.0, 5.0, 5.0, 9.0], [0.0, 0.0, 16.0, 16.0]])
        >>> sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([3, 4, 5]))
        >>> read_instances([sample])
        Instances(boxes=[tensor([[ 0.,  0.,  8.,  8.],
                [ 0.,  0., 16., 16.]])], labels=tensor([3, 5]), images=tensor([0, 0]))
        >>> read_instances([sample], max_instances=1).labels
        tensor([5])
    """
    check_integer('max_instances', max_instances, 1, optional=True)
    all_boxes, all_labels, images = [], [], []
    for i, sample in enumerate(data_samples):
        truth = sample.get('gt_instances', None)
        if truth is None or 'bboxes' not in truth or 'labels' not in truth:
            raise ValueError(f'data_samples[{i}]: no gt_instances with bboxes and labels; accepted: annotated samples')
        boxes = horizontal_boxes(truth.bboxes)
        sides = boxes[:, 2:] - boxes[:, :2]
        sound = (sides > 0).all(1) & boxes.isfinite().all(1)
        boxes, labels, area = boxes[sound], truth.labels[sound], sides[sound].prod(1)
        if max_instances is not None and len(boxes) > max_instances:
            order = torch.arange(len(boxes), device=boxes.device)
            for key in (labels, *boxes.unbind(1), -area):  # the last key decides first
                order = order[key[order].argsort(stable=True)]
            kept = order[:max_instances].sort().values
            boxes, labels = boxes[kept], labels[kept]
        all_boxes.append(boxes)
        all_labels.append(labels)
        images.append(torch.full_like(labels, i, dtype=torch.long))
    if not all_boxes:
        return Instances([], torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    return Instances(all_boxes, torch.cat(all_labels), torch.cat(images))


def draw_cells(
    instances: Instances, image_shapes: Sequence[tuple[int, int]], stride: int, count: int, background: int
) -> Instances:
    """Cells of a pyramid level as instances of their own: those of objects, and as many of the background.

    A cell has the label of the smallest instance that its centre lies in. At most half are of objects, unless there
    is less background than that. They are drawn from the whole batch by torch's global generator, on the CPU.

    Args:
        instances: the batch's ground truth.
        image_shapes: (H, W) of every image in pixels; cells that begin beyond are padding and never drawn.
        stride: pixels per cell.
        count: how many to draw; fewer where there are not so many.
        background: label of a cell that lies in no instance.

    Returns:
        The cells' squares as boxes, image by image.

    Source: FCOS, arXiv 1904.01355, for the label of a place in several boxes.

    Example:
        >>> truth = Instances([torch.tensor([[0.0, 0.0, 9.0, 9.0]])], torch.tensor([2]), torch.tensor([0]))
        >>> draw_cells(truth, [(8, 16)], stride=8, count=2, background=3)
        Instances(boxes=[tensor([[ 0.,  0.,  8.,  8.],
                [ 8.,  0., 16.,  8.]])], labels=tensor([2, 3]), images=tensor([0, 0]))
    """
    squares, labels, images = [], [], []
    for i, (boxes, shape) in enumerate(zip(instances.boxes, image_shapes, strict=True)):
        y, x = torch.meshgrid(*(torch.arange(0, end, stride, device=boxes.device) for end in shape), indexing='ij')
        corners = torch.stack([x, y], dim=-1).flatten(0, 1).to(boxes)
        centers = corners[:, None] + stride / 2
        # The smallest instance first (of equal ones that of the lower label), behind them what every cell lies in.
        own = instances.labels[instances.images == i].to(boxes.device)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
        order = own.argsort(stable=True)
        order = order[areas[order].argsort(stable=True)]
        inside = ((centers >= boxes[order, :2]) & (centers <= boxes[order, 2:])).all(dim=-1)
        first = torch.cat([inside, inside.new_ones(len(inside), 1)], dim=1).int().argmax(dim=1)
        squares.append(torch.cat([corners, corners + stride], dim=1))
        labels.append(torch.cat([own[order], own.new_tensor([background])])[first])
        images.append(torch.full_like(first, i))
    every = torch.cat(labels)
    front, back = (_shuffled(kind.nonzero().squeeze(1)) for kind in (every != background, every == background))
    front = front[: max(count // 2, count - len(back))]
    chosen = torch.cat([front, back[: count - len(front)]]).sort().values
    where = torch.cat(images)[chosen]
    drawn = torch.cat(squares)[chosen]
    return Instances([drawn[where == i] for i in range(len(images))], every[chosen], where)


def _shuffled(x: Tensor) -> Tensor:
    """In an order drawn on the CPU, the same whatever the device."""
    return x[torch.randperm(len(x)).to(x.device)]


def pool_instances(
    pyramid: Sequence[Tensor], strides: Sequence[int], boxes: Sequence[Tensor], output_size: int
) -> list[Tensor]:
    """RoIAlign of every box from every level of a pyramid, not only from the level that fits its size.

    ``aligned=True``, as many sampling points per bin as it has cells. float32, or float64 for a float64 level.

    Args:
        pyramid: levels of shape (N, C_l, H_l, W_l).
        strides: stride of every level, in input pixels per cell.
        boxes: one (K_i, 4) tensor per image: x1, y1, x2, y2 in pixels of the padded batch input.
        output_size: s, cells per side of the pooled maps.

    Returns:
        One (K, C_l, s, s) tensor per level, image by image; without boxes (0, C_l, s, s), still attached to the
        level's graph.

    Raises:
        ValueError: if levels, strides and images do not match in number.

    Source: RoIAlign, arXiv 1703.06870.

    Example:
        >>> pyramid = (torch.ones(2, 3, 8, 8), torch.ones(2, 5, 4, 4))
        >>> boxes = [torch.tensor([[8.0, 8.0, 40.0, 56.0]]), torch.zeros(0, 4)]
        >>> [tuple(x.shape) for x in pool_instances(pyramid, (8, 16), boxes, output_size=2)]
        [(1, 3, 2, 2), (1, 5, 2, 2)]
    """
    if len(strides) != len(pyramid):
        raise ValueError(f'strides: {len(strides)} for {len(pyramid)} levels; accepted: one per level')
    if any(len(level) != len(boxes) for level in pyramid):
        raise ValueError(f'boxes: of {len(boxes)} images; accepted: one tensor for each of {len(pyramid[0])} images')
    return [_pool(level, stride, boxes, output_size) for level, stride in zip(pyramid, strides, strict=True)]


@in_full_precision
def _pool(level: Tensor, stride: int, boxes: Sequence[Tensor], size: int) -> Tensor:
    if not sum(len(b) for b in boxes):
        return level[:0, :, :1, :1].expand(-1, -1, size, size)
    rois = torch.cat([torch.cat([b.new_full((len(b), 1), i), b], dim=1) for i, b in enumerate(boxes)])
    # contiguous, since the operator reads a cropped level wrongly
    return RoIAlign(size, 1 / stride, sampling_ratio=0, aligned=True)(level.contiguous(), rois.to(level))
