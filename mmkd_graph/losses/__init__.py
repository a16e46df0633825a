"""Distillation losses: one file per method, one registered class each."""

from .attention_graph_loss import AttentionGraphLoss
from .channel_graph_loss import ChannelGraphLoss
from .interface import DistillContext, PyramidLoss, PyramidSpec
from .relationship_matching_loss import RelationshipMatchingLoss

__all__ = [
    'AttentionGraphLoss',
    'ChannelGraphLoss',
    'DistillContext',
    'PyramidLoss',
    'PyramidSpec',
    'RelationshipMatchingLoss',
]
