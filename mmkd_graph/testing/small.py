"""Small detectors and weights for them, small batches and features."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import DetDataSample
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn import functional as F

from mmkd_graph.distillers.teacher import resolve_model_config


def tiny_retinanet(base_channels: int = 8, fpn_channels: int = 16, num_classes: int = 3) -> dict[str, Any]:
    """A RetinaNet of some 20 thousand weights with pyramid P3-P7."""
    return dict(
        type='RetinaNet',
        data_preprocessor=dict(
            type='DetDataPreprocessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            pad_size_divisor=32,
        ),
        backbone=dict(
            type='ResNet', depth=18, base_channels=base_channels, stem_channels=base_channels, norm_eval=False
        ),
        neck=dict(
            type='FPN',
            in_channels=[base_channels * 2**i for i in range(4)],
            out_channels=fpn_channels,
            start_level=1,
            add_extra_convs='on_output',
            num_outs=5,
        ),
        bbox_head=dict(
            type='RetinaHead',
            num_classes=num_classes,
            in_channels=fpn_channels,
            feat_channels=fpn_channels,
            stacked_convs=1,
            anchor_generator=dict(
                type='AnchorGenerator',
                octave_base_scale=4,
                scales_per_octave=1,
                ratios=[1.0],
                strides=[8, 16, 32, 64, 128],
            ),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
            loss_cls=dict(type='FocalLoss', use_sigmoid=True, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0),
        ),
        train_cfg=dict(
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
            sampler=dict(type='PseudoSampler'),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        test_cfg=dict(
            nms_pre=100, min_bbox_size=0, score_thr=0.01, nms=dict(type='nms', iou_threshold=0.5), max_per_img=20
        ),
    )


def save_weights(model: dict[str, Any], path: Path, seed: int = 7) -> str:
    """Initialise ``model`` from ``seed`` and save it as an mmengine checkpoint."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        detector = MMDET_MODELS.build(copy.deepcopy(model))
        detector.init_weights()
    torch.save(dict(state_dict=detector.state_dict(), meta={}), path)
    return str(path)


def save_untrained(config: Any, path: Path) -> str:
    """Save the weights that a detector begins with when it downloads none; a file that is there stays.

    Args:
        config: path, ``mmdet::`` name, config or model dict.
        path: of the file; its folder is made.

    Returns:
        The path.
    """
    if not path.exists():
        init_default_scope('mmdet')
        MMLogger.get_instance('untrained', log_level='ERROR')  # not how each weight was initialised
        model = resolve_model_config(config, 'config')
        model.backbone.init_cfg = None
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(model, path, seed=0)
    return str(path)


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
