"""Whether the teacher's weights are there, which levels are paired, and what is added to the student."""

from __future__ import annotations

from torch import nn

from mmkd_graph.distillers import GraphDistiller

from .findings import OK, WARNING, Finding


def check_wiring(model: GraphDistiller) -> list[Finding]:
    """What the model is made of, once it could be built.

    Args:
        model: the distiller, not wrapped.
    """
    return [_weights(model), _levels(model), _adapters(model)]


def _weights(model: GraphDistiller) -> Finding:
    key, loaded = 'model.teacher.checkpoint', model.teacher.loaded
    kind = type(model.teacher.model).__name__
    if loaded is None:
        return Finding(WARNING, key, f'the teacher ({kind}) is untrained', 'name a checkpoint of it')
    if loaded.mismatch:
        return Finding(WARNING, key, loaded.mismatch, 'use the config that the checkpoint was trained with')
    count = len(model.teacher.model.state_dict())
    return Finding(OK, key, f'all {count} weights of the teacher ({kind}) are loaded')


def _levels(model: GraphDistiller) -> Finding:
    skipped = model.skipped_strides
    found = f'strides {_listed(model.strides)} are paired, {_listed(skipped)} skipped'
    details = dict(paired=list(model.strides), skipped=list(skipped))
    if len(model.strides) == 1 < len(model.teacher.strides):
        found += f' (the teacher has {_listed(model.teacher.strides)})'
        return Finding(WARNING, 'model.taps', found, 'tap modules that share more strides', details)
    return Finding(OK, 'model.taps', found, details=details)


def _adapters(model: GraphDistiller) -> Finding:
    levels = list(model.distill.adapter.levels)
    added = [
        f'{stride}: {level.in_channels} to {level.out_channels}'
        for stride, level in zip(model.strides, levels, strict=True)
        if isinstance(level, nn.Conv2d)
    ]
    counts = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in (('adapters', model.distill.adapter), ('losses', model.distill.losses))
    }
    found = f'adapters at {len(added)} of {len(levels)} levels' + (f' (stride {", ".join(added)})' if added else '')
    found += f'; {counts["adapters"]} weights in adapters and {counts["losses"]} in losses are learned and not exported'
    return Finding(OK, 'model.adapter', found, details=counts)


def _listed(strides: tuple[int, ...]) -> str:
    return ', '.join(map(str, strides)) or 'none'
