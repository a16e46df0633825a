"""Distillation losses: one file per method, one registered class each. Every file of this folder is imported."""

from importlib import import_module
from pkgutil import iter_modules

from mmkd_graph.registry import MODELS

from .base import DistillContext, DistillLoss, HeadLoss, HeadOutputs, HeadSpec, PyramidLoss, PyramidSpec

for _module in iter_modules(__path__):
    import_module(f'{__name__}.{_module.name}')

LOSSES = {name: kind for name, kind in MODELS.module_dict.items() if kind.__module__.startswith(f'{__name__}.')}
"""Every loss that a file of this folder registers, by the name of its class."""

globals().update(LOSSES)

__all__ = [
    'LOSSES',
    'DistillContext',
    'DistillLoss',
    'HeadLoss',
    'HeadOutputs',
    'HeadSpec',
    'PyramidLoss',
    'PyramidSpec',
    *LOSSES,
]
