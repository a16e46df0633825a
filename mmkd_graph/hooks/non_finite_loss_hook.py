"""Stop when a loss becomes NaN or infinite; say which term it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmkd_graph.distillers import GraphDistiller
from mmkd_graph.distillers.gradient_norms import task_loss
from mmkd_graph.registry import HOOKS
from mmkd_graph.unwrapping import unwrapped

_NAMED = 16
"""Images that a message names."""


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Stop the training, on all ranks together, before a loss that is NaN or infinite reaches the weights.

    One number is read from the device per iteration, between forward and backward pass. Gradients are not looked
    at: infinite ones are an ordinary event under fp16, which the loss scaling of ``AmpOptimWrapper`` deals with.
    The message names iteration, rank, terms and the batch's images; of a distilled detector also the levels on which
    the student's or the teacher's features are not finite. ``mmkd_graph.TrainingRunner`` adds this hook to every
    training that does not have it.

    Raises:
        FloatingPointError: in training.

    Example:
        >>> custom_hooks = [dict(type='mmkd_graph.NonFiniteLossHook')]
    """

    _batch: Any = None

    def before_train(self, runner: Runner) -> None:
        """Look at what the model gives in every training pass."""
        model = unwrapped(runner.model)

        # A function, not a bound method: a copy of the model must not copy this hook and the runner with it.
        def look(module: nn.Module, args: tuple, kwargs: dict[str, Any], losses: Any) -> None:
            if module is model and module.training and kwargs.get('mode') == 'loss':
                self._look(runner, model, losses)

        self._handle = model.register_forward_hook(look, with_kwargs=True)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Keep the batch, to name its images and to look at its features if need be."""
        self._batch = data_batch

    def after_train(self, runner: Runner) -> None:
        """Look no longer."""
        self._handle.remove()
        self._batch = None

    def _look(self, runner: Runner, model: nn.Module, losses: Mapping[str, Any]) -> None:
        losses = {name: value for name, value in losses.items() if not isinstance(value, Mapping)}
        finite = torch.isfinite(task_loss(losses).detach())
        everywhere = finite.to(torch.uint8)
        all_reduce(everywhere, 'min')
        if everywhere:
            return
        message = f'the loss is not finite at iteration {runner.iter + 1}, rank {get_rank()}: '
        if finite:
            raise FloatingPointError(f'{message}on another rank')
        raise FloatingPointError(
            f'{message}{_describe(losses)}{_images(self._batch)}{self._features(runner, model)}. Often: a learning '
            'rate that is too high, a warm-up that is too short, or broken boxes'
        )

    def _features(self, runner: Runner, model: nn.Module) -> str:
        """What is known about the levels of a distilled detector."""
        if not isinstance(model, GraphDistiller) or self._batch is None:
            return ''
        try:
            with torch.no_grad(), runner.optim_wrapper.optim_context(model):
                batch = model.data_preprocessor(self._batch, training=False)
                student, teacher = model.compared_features(batch['inputs'], batch['data_samples'])
        except Exception as error:  # whatever is wrong here must not hide what was found
            return f'; the features could not be looked at ({type(error).__name__}: {error})'
        parts = []
        for name, pyramid in (('student', student), ('teacher', teacher)):
            broken = [s for s, level in zip(model.strides, pyramid, strict=True) if not torch.isfinite(level).all()]
            where = f'not finite at strides {broken}' if broken else 'finite on all levels'
            parts.append(f"the {name}'s features are {where}")
        return f'; {", ".join(parts)}'


def _images(batch: Any) -> str:
    """The paths of a batch's images, or their ids, as far as its samples tell."""
    samples = batch.get('data_samples') if isinstance(batch, Mapping) else None
    samples = [sample for sample in samples or () if isinstance(sample, BaseDataElement)]
    names = [str(sample.get('img_path') or sample.get('img_id')) for sample in samples]
    more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
    return f'; the images are {", ".join(names[:_NAMED])}{more}' if names else ''


def _describe(losses: Mapping[str, Any]) -> str:
    """The terms that are not finite, with their values; of a list of losses, which of them."""
    found = []
    for name, value in losses.items():
        parts = [(name, value)] if isinstance(value, Tensor) else [(f'{name}[{i}]', v) for i, v in enumerate(value)]
        for label, part in parts:
            mean = part.detach().float().mean()
            if not torch.isfinite(mean):
                found.append(f'{label} = {mean.item()}')
    return ', '.join(found) or 'every term is finite, their sum is not'
