"""Whether it is the teacher that is meant, what it is fed, which levels are paired, and what the student gets added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from mmkd_graph.distillers import GraphDistiller
from mmkd_graph.distillers.inputs import normalised
from mmkd_graph.distillers.provenance import image_scales

from .findings import FAIL, OK, WARNING, Finding, some_of

_OTHER_SIZE = 1.25
"""Images are of another size if their short sides differ by more than this factor."""


def check_wiring(model: GraphDistiller, cfg: Mapping[str, Any] | None = None) -> list[Finding]:
    """What the model is made of, once it could be built, and what its training's config feeds the teacher."""
    findings = [_weights(model), *_config(model), _levels(model), _adapters(model)]
    return findings if cfg is None else [*findings, *_pipeline(cfg), *_scales(model, cfg)]


def _weights(model: GraphDistiller) -> Finding:
    key, loaded = 'model.teacher.checkpoint', model.teacher.loaded
    kind = type(model.teacher.model).__name__
    if loaded is None:
        return Finding(WARNING, key, f'the teacher ({kind}) is untrained', 'name a checkpoint of it')
    if loaded.mismatch:
        return Finding(WARNING, key, loaded.mismatch, 'use the config that the checkpoint was trained with')
    count = len(model.teacher.model.state_dict())
    return Finding(OK, key, f'all {count} weights of the teacher ({kind}) are loaded')


def _config(model: GraphDistiller) -> list[Finding]:
    """Whether the teacher's config is the one that its checkpoint was trained with."""
    key, teacher = 'model.teacher.config', model.teacher
    if teacher.loaded is None:
        return []
    if teacher.differences is None:
        found = 'not compared: the checkpoint does not hold the config that it was trained with, or not of this model'
        return [Finding(OK, key, found)]
    if not teacher.differences:
        return [Finding(OK, key, 'no difference from the config in the checkpoint changes what the teacher computes')]
    findings = []
    for matters in (True, False):
        if some := [x for x in teacher.differences if x.matters is matters]:
            advice = 'use the config that the checkpoint was trained with'
            advice += ', or set model.teacher.strict=False if this is meant' if matters and teacher.strict else ''
            level = FAIL if matters and teacher.strict else WARNING
            findings.append(Finding(level, key, some_of(some), advice, {x.key: str(x) for x in some}))
    return findings


def _pipeline(cfg: Mapping[str, Any]) -> list[Finding]:
    """Images that are normalised twice, or where the teacher cannot know of it."""
    found = normalised(cfg, ['train_dataloader'])
    if not found:
        return []
    text = f'{found[0].name} ({found[0].key}) normalises the images where the teacher cannot know of it'
    advice = f'take it out, and write into model.student: {found[0].line}'
    return [Finding(FAIL, 'train_dataloader.dataset.pipeline', text, advice)]


def _scales(model: GraphDistiller, cfg: Mapping[str, Any]) -> list[Finding]:
    """Whether the teacher was trained on images of about the size that it gets."""
    own, given = image_scales(model.teacher.trained or model.teacher.config), image_scales(cfg)
    if own is None or given is None or (own[0] <= given[1] * _OTHER_SIZE and given[0] <= own[1] * _OTHER_SIZE):
        return []
    before, now = (f'{low:g}' if low == high else f'{low:g} to {high:g}' for low, high in (own, given))
    found = f'the short side of images is {now} pixels; the teacher was trained with {before}'
    return [Finding(WARNING, 'train_dataloader.dataset.pipeline', found, 'features of other scales may be worse')]


def _levels(model: GraphDistiller) -> Finding:
    skipped = model.pyramids.skipped
    found = f'strides {_listed(model.strides)} are paired, {_listed(skipped)} skipped'
    details = dict(paired=list(model.strides), skipped=list(skipped))
    if len(model.strides) == 1 < len(model.teacher.strides):
        found += f' (the teacher has {_listed(model.teacher.strides)})'
        return Finding(WARNING, 'model.taps', found, 'tap modules that share more strides', details)
    return Finding(OK, 'model.taps', found, details=details)


def _adapters(model: GraphDistiller) -> Finding:
    levels = dict(zip(model.strides, model.distill.adapter.levels, strict=True))
    convolutions = {stride: level for stride, level in levels.items() if isinstance(level, nn.Conv2d)}
    added = ', '.join(f'{stride}: {x.in_channels} to {x.out_channels}' for stride, x in convolutions.items())
    parts = dict(adapters=model.distill.adapter, losses=model.distill.losses)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    found = f'adapters at {len(convolutions)} of {len(levels)} levels' + (f' (stride {added})' if added else '')
    found += f'; {counts["adapters"]} weights in adapters and {counts["losses"]} in losses are learned and not exported'
    return Finding(OK, 'model.adapter', found, details=counts)


def _listed(strides: tuple[int, ...]) -> str:
    return ', '.join(map(str, strides)) or 'none'
