"""Gradient norms of the task losses and the distillation losses at the tapped features of the student."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import all_reduce
from mmengine.model import BaseModel
from torch import Tensor, nn

from .rng import preserved_rng

if TYPE_CHECKING:
    from .distiller import GraphDistiller

_HALF_SCALES = (2.0**16, 2.0**8, 1.0)
"""Factors tried in turn where float16 carries the gradient, the first as mmengine's own loss scaling starts."""


def task_loss(losses: Mapping[str, Any]) -> Tensor:
    """The sum of a detector's own losses that it is trained with."""
    return BaseModel.parse_losses(None, losses)[0]  # which reads nothing of a model


def gradient_norm(value: Tensor, features: Sequence[Tensor]) -> float:
    """Euclidean norm of the gradient of ``value`` at all ``features`` together, those of all ranks included.

    The graph is kept and no ``.grad`` is written. float16 features, which ordinary gradients underflow, are
    differentiated with a scaled value and the norm scaled back; a loss scaler of the training plays no part.

    Args:
        value: scalar; every rank has its own.
        features: tensors that ``value`` may depend on; those without gradient are left out.

    Returns:
        The norm, in units of ``value`` per unit of the features; 0 where nothing depends on them. Among several ranks,
        which all have to call this, the root of the sum of squares.

    Raises:
        RuntimeError: if the gradient would pass a module that is checkpointed with ``use_reentrant=True``.

    Example:
        >>> x, y = torch.ones(2, 2, requires_grad=True), torch.ones(3, requires_grad=True)
        >>> gradient_norm(3 * x.sum(), [x, y])
        6.0
    """
    norm = math.nan
    for scale in _HALF_SCALES if any(x.dtype == torch.float16 for x in features) else (1.0,):
        square = _squared_norm(value, features, scale)
        # Before it is decided whether to go on: the ranks must do so together, as a loss may gather in its backward.
        # DDP trains with the mean of the ranks' losses, whose gradient is that at the features of all ranks.
        all_reduce(square)
        norm = square.sqrt().item() / scale
        if math.isfinite(norm):
            break
    return norm


def _squared_norm(value: Tensor, features: Sequence[Tensor], scale: float) -> Tensor:
    features = [x for x in features if x.requires_grad]
    gradients: Sequence[Tensor | None] = ()
    if features and value.requires_grad:
        try:
            # The training's own backward pass runs outside autocast too.
            with torch.autocast(value.device.type, enabled=False):
                gradients = torch.autograd.grad(value * scale, features, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            if 'heckpoint' not in str(error):
                raise
            raise RuntimeError(
                'gradients at the tapped student features cannot be measured, as a module behind taps.student is '
                'checkpointed with use_reentrant=True; accepted: checkpointing before the tap only, or '
                'use_reentrant=False'
            ) from error
    norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradients if g is not None]
    return torch.stack(norms).square().sum() if norms else value.new_zeros((), dtype=torch.float64)


@dataclass(frozen=True)
class GradientNorms:
    """Gradient norms of one batch at the tapped student features, the paired levels together.

    Attributes:
        task: of the sum of the student's own losses.
        losses: ``{name: norm}`` of every distillation loss, its terms together, at ``loss_weight=1``.
        terms: ``{name: {term: norm}}`` of every term alone, with the term's own weight, at ``loss_weight=1``.
        task_value: the sum of the student's own losses; like all values that of this rank's batch.
        values: ``{name: {term: value}}`` of every term, with the term's own weight, at ``loss_weight=1``.
    """

    task: float
    losses: dict[str, float]
    terms: dict[str, dict[str, float]]
    task_value: float
    values: dict[str, dict[str, float]]


class LossFailed(RuntimeError):
    """A distillation loss raised; what it raised is the cause.

    Attributes:
        name: the loss's key under ``losses``.
    """

    def __init__(self, name: str, error: Exception) -> None:
        key = f'model.losses.{name}'
        super().__init__(str(error) if str(error).startswith(key) else f'{key}: {type(error).__name__}: {error}')
        self.name = name


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say which loss an error comes from; one of too little memory or of checkpointing is not the loss's own."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # losses of any kind
        if 'use_reentrant' in str(error):
            raise
        raise LossFailed(name, error) from error


def gradient_norms(model: GraphDistiller, inputs: Tensor, data_samples: list) -> GradientNorms:
    """Measure one preprocessed batch; every loss is measured, one of weight 0 or out of schedule too.

    The model stays in its mode, and its weights, buffers and random numbers are left as they were. Among several
    ranks all have to call this, and the norms are those of all their batches together.

    Args:
        model: the distiller, not wrapped.
        inputs: (N, 3, H, W), normalised for the student, as ``model.data_preprocessor`` gives them.
        data_samples: the batch's ``DetDataSample`` list.

    Returns:
        See :class:`GradientNorms`.

    Raises:
        ValueError: if the tapped features take no gradient.
        LossFailed: if a loss raises, or returns anything else than named scalars.
    """
    with preserved_rng(), preserved_buffers(model), torch.enable_grad():
        task, pair = model.pyramids.run(model.student.loss, inputs, data_samples, model.distill.heads)
        pair.check_gradients('gradient_norms')
        features, adapted = pair.tapped, model.distill.adapter(pair.student)
        terms = {}
        for name in model.distill.losses:
            with _named(name):
                terms[name] = model.distill.terms(name, adapted, pair)
        total = task_loss(task)
        task_norm = gradient_norm(total, features)
        losses, alone = {}, {}
        for name, values in terms.items():
            with _named(name):
                losses[name] = gradient_norm(sum(values.values()), features)
                alone[name] = {term: gradient_norm(value, features) for term, value in values.items()}
        return GradientNorms(
            task=task_norm,
            losses=losses,
            terms=alone,
            task_value=total.item(),
            values={name: {term: value.item() for term, value in values.items()} for name, values in terms.items()},
        )


@contextmanager
def preserved_buffers(model: nn.Module) -> Iterator[None]:
    """Put running statistics and counters back on exit."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)
