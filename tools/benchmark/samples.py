"""Random annotated batches for timing."""

from __future__ import annotations

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData


def random_samples(count: int, size: tuple[int, int], boxes: int, classes: int, seed: int = 0) -> list[DetDataSample]:
    """``count`` samples of images of ``size`` (H, W) in pixels with ``boxes`` boxes each."""
    generator = torch.Generator().manual_seed(seed)
    extent = torch.tensor([size[1], size[0]])
    samples = []
    for index in range(count):
        corner = torch.rand(boxes, 2, generator=generator) * 0.7 * extent
        sides = torch.rand(boxes, 2, generator=generator) * 0.25 * extent + 8
        sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), img_id=index))
        labels = torch.randint(classes, (boxes,), generator=generator)
        sample.gt_instances = InstanceData(bboxes=torch.cat([corner, corner + sides], dim=1), labels=labels)
        samples.append(sample)
    return samples
