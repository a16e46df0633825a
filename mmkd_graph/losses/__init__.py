"""Distillation losses: one file per method, one registered class each."""

from .crg import CRGLoss
from .cwd import CWDLoss
from .fgd import FGDLoss
from .fitnet import FitNetLoss
from .interface import DistillContext, PyramidLoss, PyramidSpec
from .lfcc import LFCCLoss
from .mgd import MGDLoss
from .mhgd import MHGDLoss
from .pkd import PKDLoss
from .refilled import REFILLEDLoss

__all__ = [
    'CRGLoss',
    'CWDLoss',
    'DistillContext',
    'FGDLoss',
    'FitNetLoss',
    'LFCCLoss',
    'MGDLoss',
    'MHGDLoss',
    'PKDLoss',
    'PyramidLoss',
    'PyramidSpec',
    'REFILLEDLoss',
]
