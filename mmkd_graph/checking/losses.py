"""Values of every loss on a batch, and the ratio of its gradient to the task's."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from mmengine.dist import get_world_size

from mmkd_graph.distillers import GradientNorms, GradientRatio, GraphDistiller, gradient_norms
from mmkd_graph.distillers.gradient_norms import LossFailed, preserved_buffers
from mmkd_graph.distillers.keys import split_key
from mmkd_graph.distillers.rng import preserved_rng
from mmkd_graph.findings import FAIL, LOG, OK, WARNING, Finding, one_line

_STRONG, _WEAK = 10.0, 1e-3
"""Ratios of a loss's gradient to the task's that are worth a look: it dominates the task, or is negligible."""


def check_losses(
    model: GraphDistiller, batches: Sequence[Any], precision: Callable[[], AbstractContextManager] = nullcontext
) -> list[Finding]:
    """Values and gradients of the task and of every distillation loss.

    The first batch is measured, and another one as long as some loss is zero (one without enough boxes may be).
    Everything happens in a copy of the student in training mode, so that no trace is left. Among several ranks all have
    to call this; values are those of a rank's own batch, gradients those of all.

    Args:
        batches: as the loader gives them, not preprocessed.
        precision: context of the training's forward pass, such as autocast.
    """
    try:
        probe = copy.deepcopy(model).train()
    except Exception as error:  # whatever a module may refuse
        found = f'the losses were not looked at, as the model cannot be copied ({one_line(error)})'
        return [Finding(WARNING, 'model.losses', found)]
    boxes = 0
    broken: list[Finding] = []
    # What is checkpointed still runs the original's modules: their buffers are put back too.
    with preserved_rng(), preserved_buffers(model):
        for batch in batches:
            try:
                data = probe.data_preprocessor(copy.deepcopy(batch), True)
                norms = _measured(probe, data, precision, broken)
            except Exception as error:  # detectors of any kind
                # The copy and the gradients one by one take more than a step does; other ranks would wait for this one.
                full = isinstance(error, torch.cuda.OutOfMemoryError)
                if full and get_world_size() > 1:
                    raise RuntimeError(
                        'TrainingCheckHook: out of memory while the losses were looked at, in a copy of the model. '
                        'The training itself may fit: start it with --no-check, or without the hook'
                    ) from error
                if str(error).startswith('gradient_norms:'):
                    level = FAIL if model.distill.tap_bound else WARNING
                    return [*broken, Finding(level, 'model.taps.student', one_line(error))]
                if full or 'use_reentrant' in str(error):
                    return [*broken, Finding(WARNING, 'model.losses', f'not looked at: {one_line(error)}')]
                if get_world_size() > 1:  # of this rank's batch: others would wait
                    raise
                return [*broken, Finding(FAIL, 'model.student', one_line(error), 'no loss could be looked at')]
            boxes = max(boxes, sum(len(sample.gt_instances) for sample in data['data_samples']))
            # The norms are those of all ranks: they go on together, as a loss may gather.
            if all(norms.losses.values()) or not all(map(math.isfinite, norms.losses.values())):
                break
    return [_task(norms), *broken, *(_loss(model, name, norms, boxes, len(batches)) for name in norms.losses)]


def _measured(
    probe: GraphDistiller, data: dict[str, Any], precision: Callable[[], AbstractContextManager], broken: list[Finding]
) -> GradientNorms:
    """The norms of all losses that work; one that raises is taken out of ``probe`` and reported in ``broken``."""
    while True:
        try:
            with precision():
                return gradient_norms(probe, **data)
        except LossFailed as error:
            if get_world_size() > 1:  # the other ranks have not lost theirs, and would wait
                raise
            LOG.debug('', exc_info=error)
            key, found = split_key(str(error), 'model')
            broken.append(Finding(FAIL, key, found, 'correct the loss, or its options'))
            del probe.distill.losses[error.name]


def _task(norms: GradientNorms) -> Finding:
    key = 'model.student'
    details = dict(value=norms.task_value, gradient=norms.task)
    if not math.isfinite(norms.task_value) or not math.isfinite(norms.task):
        found = f'the task losses are {norms.task_value:g}, their gradient {norms.task:g}, before the first step'
        return Finding(FAIL, key, found, 'look at the data (boxes, images), the initial weights and amp', details)
    found = f'task losses {norms.task_value:.4g}; gradient at the tapped features {norms.task:.3g}'
    if norms.task == 0:
        return Finding(WARNING, key, found, 'the task does not train what the losses train: look at taps', details)
    return Finding(OK, key, found, details=details)


def _loss(model: GraphDistiller, name: str, norms: GradientNorms, boxes: int, batches: int) -> Finding:
    key, values, norm = f'model.losses.{name}', norms.values[name], norms.losses[name]
    details = dict(values=values, gradients=norms.terms[name], gradient=norm, task_gradient=norms.task)
    measured = isinstance(model.distill.weights[name], GradientRatio)
    weight = 1.0 if measured else model.distill.weights[name].value
    level = FAIL if weight else WARNING  # what is only logged harms no training
    if bad := [term for term, value in values.items() if not math.isfinite(value)]:
        found = ', '.join(f'{term} is {values[term]:g}' for term in bad)
        advice = 'look at the features of the teacher (weights, normalisation), and at amp'
        return Finding(level, key, found, advice, details)
    if not math.isfinite(norm):
        found = f'the gradient at the tapped features is {norm:g}'
        return Finding(level, key, found, 'train without amp, or give the loss another option', details)
    if norm == 0 and weight:
        if any(values.values()):
            found = f'no gradient reaches the student, though its value is {sum(values.values()):.4g}'
            return Finding(FAIL, key, found, 'look at taps.student and at the options of the loss', details)
        found = f'every term is zero in {batches} batches'
        if boxes >= 2:
            return Finding(FAIL, key, found, 'nothing is learned: look at its options and at the boxes', details)
        return Finding(
            WARNING, key, f'{found} with fewer than two boxes', 'look at the log of the first iterations', details
        )
    task = norms.task or math.nan
    terms = ', '.join(f'{t} {v:.4g} (gradient {norms.terms[name][t] / task:.3g} x task)' for t, v in values.items())
    if not weight:
        return Finding(OK, key, f'{terms}; loss_weight=0: it is only logged', details=details)
    ratio = weight * norm / task
    details['ratio'] = ratio
    if measured:
        wanted = model.distill.weights[name].ratio
        return Finding(OK, key, f'{terms}; its weight will be measured, for {wanted:g} x task', details=details)
    found = f'{terms}; at loss_weight={weight:g} together {ratio:.3g} x task'
    if _WEAK <= ratio <= _STRONG or math.isnan(ratio):
        return Finding(OK, key, found, details=details)
    found += ": its gradient dominates the task's" if ratio > _STRONG else ': its gradient is negligible'
    advice = f"set loss_weight near {weight / ratio:.2g} (1 x task), or dict(type='mmkd_graph.GradientRatio', ratio=…)"
    return Finding(WARNING, key, found, advice, details)
