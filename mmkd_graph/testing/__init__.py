"""For tests of losses, hooks and detectors: small detectors, weights and batches, and a round trip of any detector."""

from .batches import annotated, raw_batch, smooth_maps
from .detectors import save_weights, tiny_retinanet

LOSSES = dict(
    crg=dict(type='mmkd_graph.CRGLoss'),
    mhgd=dict(type='mmkd_graph.MHGDLoss'),
    lfcc=dict(type='mmkd_graph.LFCCLoss'),
    refilled=dict(type='mmkd_graph.REFILLEDLoss', num_classes=80),
    fitnet=dict(type='mmkd_graph.FitNetLoss'),
    cwd=dict(type='mmkd_graph.CWDLoss'),
    pkd=dict(type='mmkd_graph.PKDLoss'),
    fgd=dict(type='mmkd_graph.FGDLoss'),
    mgd=dict(type='mmkd_graph.MGDLoss'),
)
"""Every loss of this package with its defaults, for 80 classes."""

__all__ = ['LOSSES', 'annotated', 'raw_batch', 'save_weights', 'smooth_maps', 'tiny_retinanet']
