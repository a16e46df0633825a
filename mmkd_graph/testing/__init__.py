"""For tests of losses, hooks and detectors: small detectors, weights and batches, and a round trip of any detector."""

from inspect import signature
from typing import Any

from mmkd_graph import losses

from .small import annotated, raw_batch, save_untrained, save_weights, smooth_maps, tiny_retinanet

LOSSES: dict[str, dict[str, Any]] = {
    name.removesuffix('Loss').lower(): dict(
        type=f'mmkd_graph.{name}', **{key: 80 for key in signature(kind).parameters if key == 'num_classes'}
    )
    for name, kind in losses.LOSSES.items()
}
"""Every loss of this package with its defaults, for 80 classes."""

__all__ = ['LOSSES', 'annotated', 'raw_batch', 'save_untrained', 'save_weights', 'smooth_maps', 'tiny_retinanet']
