"""Distillation losses: one file per method, one registered class each."""

from .channel_graph_loss import ChannelGraphLoss
from .interface import DistillContext, PyramidLoss, PyramidSpec
from .low_frequency_contrastive_loss import LowFrequencyContrastiveLoss

__all__ = ['ChannelGraphLoss', 'DistillContext', 'LowFrequencyContrastiveLoss', 'PyramidLoss', 'PyramidSpec']
