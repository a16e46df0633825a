"""Distillation losses: one file per method, one registered class each."""

from .attention_graph_loss import AttentionGraphLoss
from .channel_wise_loss import ChannelWiseLoss
from .crg import CRGLoss
from .feature_mse_loss import FeatureMSELoss
from .focal_global_loss import FocalGlobalLoss
from .interface import DistillContext, PyramidLoss, PyramidSpec
from .low_frequency_contrastive_loss import LowFrequencyContrastiveLoss
from .masked_generative_loss import MaskedGenerativeLoss
from .pearson_loss import PearsonLoss
from .relationship_matching_loss import RelationshipMatchingLoss

__all__ = [
    'AttentionGraphLoss',
    'CRGLoss',
    'ChannelWiseLoss',
    'DistillContext',
    'FeatureMSELoss',
    'FocalGlobalLoss',
    'LowFrequencyContrastiveLoss',
    'MaskedGenerativeLoss',
    'PearsonLoss',
    'PyramidLoss',
    'PyramidSpec',
    'RelationshipMatchingLoss',
]
