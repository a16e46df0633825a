"""Predictions of dense heads that the tests of losses make on the spot."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.structures import DetDataSample
from torch import Tensor

from mmkd_graph.losses import DistillContext, HeadLoss, HeadOutputs, HeadSpec

STRIDES = (8, 16)
SIZES = ((6, 8), (3, 4))
SHAPES = ((48, 64), (40, 44))
"""Of the images in pixels; the second one is padded by a row of the finer level and two columns."""


def context(shapes: Any = SHAPES) -> DistillContext:
    samples = [DetDataSample(metainfo=dict(img_shape=shape)) for shape in shapes]
    return DistillContext(data_samples=samples, strides=STRIDES, batch_shape=(48, 64))


def levels(seed: int, channels: int, scale: float = 2.0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple((scale * torch.randn(2, channels, h, w, generator=generator)).to(dtype) for h, w in SIZES)


def positives(seed: int, share: float = 0.3) -> tuple[Tensor, ...]:
    """Which cells have an object: never padded ones, as an assigner leaves those out."""
    return tuple(
        (noise > 0) & context().valid_cells(noise, stride)
        for noise, stride in zip(levels(seed, 1, dtype=torch.float32), STRIDES, strict=True)
    )


def corners(seed: int, anchors: int = 1) -> tuple[Tensor, ...]:
    """Boxes (N, A * 4, H, W) in pixels, all of some area."""
    found = []
    for x in levels(seed, anchors * 4, scale=8.0):
        first, second = x.unflatten(1, (anchors, 4)).chunk(2, dim=2)
        found.append(torch.cat([first, first + 1 + second.abs()], dim=2).flatten(1, 2))
    return tuple(found)


def bound(loss: HeadLoss, classes: int = 3, sigmoid: bool = True, bins: int | None = None) -> Any:
    loss.bind(HeadSpec(strides=STRIDES, num_classes=classes, sigmoid=sigmoid, bins=bins, name='kd'))
    return loss


def rows(side: tuple[Tensor, ...], channels: int, shapes: Any = SHAPES) -> list[list[float]]:
    """What the anchors of all cells inside of the images predict, read by loops, in float64."""
    found = []
    for level, stride in zip(side, STRIDES, strict=True):
        n, width, h, w = level.shape
        for i in range(n):
            for a in range(width // channels):
                for y in range(h):
                    for x in range(w):
                        if y * stride < shapes[i][0] and x * stride < shapes[i][1]:
                            values = level[i, a * channels : (a + 1) * channels, y, x]
                            found.append(values.double().tolist())
    return found


def given(
    loss: HeadLoss, student: bool, seed: int, anchors: int = 1, dtype: torch.dtype = torch.float32
) -> HeadOutputs:
    """What a bound loss reads, random."""
    spec = loss.spec
    boxes: tuple[Tensor, ...] = ()
    if loss.reads_boxes:
        boxes = levels(seed + 10, 4 * spec.bins, dtype=dtype) if spec.bins else corners(seed + 10, anchors)
    scores = levels(seed, anchors * spec.outputs, dtype=dtype)
    return HeadOutputs(scores, boxes, positives(seed + 20) if student and loss.reads_positives else ())
