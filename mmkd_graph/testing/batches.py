"""Small batches and features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn import functional as F


def annotated(boxes: Sequence, labels: Sequence[int]) -> DetDataSample:
    """A sample with ground truth alone: (x1, y1, x2, y2) boxes in pixels, and their labels."""
    sample = DetDataSample()
    sample.gt_instances = InstanceData(
        bboxes=torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.as_tensor(labels, dtype=torch.long),
    )
    return sample


def raw_batch() -> dict[str, Any]:
    """Two raw images of 96x64 and 64x96 pixels with two boxes and one, as a data loader gives them."""
    generator = torch.Generator().manual_seed(0)
    samples, images = [], []
    for shape, boxes in (((96, 64), [[4, 4, 40, 60], [20, 8, 60, 40]]), ((64, 96), [[10, 10, 70, 50]])):
        images.append(torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=generator))
        samples.append(annotated(boxes, range(len(boxes))))
        samples[-1].set_metainfo(
            dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0), img_id=len(samples) - 1)
        )
    return dict(inputs=images, data_samples=samples)


def smooth_maps(seed: int, images: int, channels: int, side: int) -> Tensor:
    """Features (N, C, side, side) of one network: mixtures of 24 smooth random patterns, and noise."""
    generator = torch.Generator().manual_seed(seed)
    patterns = F.avg_pool2d(torch.randn(images, 24, side + 4, side + 4, generator=generator), 5, 1)
    mixed = torch.einsum('ck,nkhw->nchw', torch.randn(channels, 24, generator=generator), patterns)
    return mixed + 0.2 * mixed.std() * torch.randn(mixed.shape, generator=generator)
