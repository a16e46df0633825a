"""Stop, or leave an iteration out, when a loss becomes NaN or infinite; say which term it was."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmkd_graph.distillers.gradient_ratio import GradientRatio
from mmkd_graph.registry import HOOKS

_ACTIONS = ('raise', 'skip')
_NAMED = 16
"""Images that a message names."""


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Look at the total loss before it is propagated back; name the terms when it is NaN or infinite.

    One number is read from the device per iteration, between forward and backward pass. Gradients are not looked
    at: infinite ones are an ordinary event under fp16, which the loss scaling of ``AmpOptimWrapper`` deals with.
    The message names the batch's images too.
    Of a distilled detector the message also names the levels on which the student's or the teacher's features are
    not finite. ``tools/train.py`` adds this hook, with ``action='raise'``, to every training that does not have it.

    Args:
        action: ``'raise'`` stops the training before the weights are touched. ``'skip'`` leaves the iteration's
            update out, on all ranks if it happens on one, and puts running statistics back, with a warning each time
            and the number of skipped iterations, ``skipped``, in the log; a window of gradient accumulation becomes
            one iteration longer (what a window at the very end had gathered before a skip in it is not applied).
        max_in_a_row: with ``'skip'``, stop after that many skipped iterations in a row: that is no accident.

    Raises:
        ValueError: if an argument is none of the accepted ones.
        FloatingPointError: in training, naming iteration, rank and terms.

    Example:
        >>> custom_hooks = [dict(type='mmkd_graph.NonFiniteLossHook', action='skip')]
    """

    def __init__(self, action: str = 'raise', max_in_a_row: int = 10) -> None:
        if action not in _ACTIONS:
            raise ValueError(f'NonFiniteLossHook: action={action!r}; accepted: {", ".join(map(repr, _ACTIONS))}')
        if isinstance(max_in_a_row, bool) or not isinstance(max_in_a_row, int) or max_in_a_row < 1:
            raise ValueError(f'NonFiniteLossHook: max_in_a_row={max_in_a_row!r}; accepted: an integer >= 1')
        self.action, self.max_in_a_row = action, max_in_a_row
        self.skipped = self._in_a_row = 0
        self._skip = False
        self._batch: Any = None
        self._buffers: list[tuple[Tensor, Tensor]] = []

    def before_train(self, runner: Runner) -> None:
        """Put the look between the model's losses and the optimizer."""
        self.skipped = runner.message_hub.get_info('skipped_iterations', 0)
        # mmengine counts every iteration before this one as a pass of the accumulation.
        _shorten(runner.optim_wrapper, self.skipped, begun=True)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        parse, update = model.parse_losses, runner.optim_wrapper.update_params

        # Functions, not bound methods: a copy of the model must not copy this hook and the runner with it.
        def parse_losses(losses: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
            total, values = parse(losses)
            self._look(runner, model, total, losses)
            if self.action == 'skip':
                values['skipped'] = total.new_tensor(self.skipped)
            return total, values

        def update_params(*args: Any, **kwargs: Any) -> None:
            if not self._skip:
                update(*args, **kwargs)

        model.parse_losses, runner.optim_wrapper.update_params = parse_losses, update_params

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Keep the batch, to look at its features if need be, and what a forward pass changes."""
        self._batch = data_batch
        if self.action == 'skip':
            self._buffers = [(buffer, buffer.clone()) for buffer in runner.model.buffers()]

    def after_train(self, runner: Runner) -> None:
        """Take the look out again, and say how much was skipped."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        del model.parse_losses, runner.optim_wrapper.update_params
        self._batch, self._buffers = None, []
        if self.skipped:
            runner.logger.warning(f'{self.skipped} iterations were skipped because a loss was not finite')

    def _look(self, runner: Runner, model: nn.Module, total: Tensor, losses: Mapping[str, Any]) -> None:
        finite = torch.isfinite(total.detach())
        here = bool(finite)
        everywhere = here
        if self.action == 'skip' and runner.distributed:
            flag = finite.to(torch.uint8)
            dist.all_reduce(flag, dist.ReduceOp.MIN)
            everywhere = bool(flag)
        self._skip = not everywhere
        if everywhere:
            self._in_a_row = 0
            return
        found = _describe(losses) if not here else 'on another rank'
        message = f'the loss is not finite at iteration {runner.iter + 1}, rank {get_rank()}: {found}'
        if not here:
            message += _images(self._batch)
        if not here and (self.action == 'raise' or self._in_a_row == 0):
            message += self._features(runner, model)
        if self.action == 'raise':
            raise FloatingPointError(
                f'{message}. Often: a learning rate that is too high, a warm-up that is too short, '
                "or broken boxes; NonFiniteLossHook(action='skip') leaves such iterations out"
            )
        for buffer, before in self._buffers:
            buffer.copy_(before)
        for module in model.modules():
            if isinstance(module, GradientRatio):
                module.reread()
        _shorten(runner.optim_wrapper, 1)
        self.skipped += 1
        self._in_a_row += 1
        runner.message_hub.update_info('skipped_iterations', self.skipped)
        if self._in_a_row > self.max_in_a_row:
            raise FloatingPointError(f'{message}. {self.max_in_a_row} iterations before it were skipped in a row')
        # to all ranks' logs, which otherwise begin at ERROR but for the first
        runner.logger.log(logging.WARNING if get_rank() == 0 else logging.ERROR, f'{message}; skipped, no update')

    def _features(self, runner: Runner, model: nn.Module) -> str:
        """What is known about the levels of a distilled detector."""
        if not callable(getattr(model, 'pyramids', None)) or self._batch is None:
            return ''
        try:
            with torch.no_grad(), runner.optim_wrapper.optim_context(model):
                batch = model.data_preprocessor(self._batch, training=False)
                student, teacher, strides = model.pyramids(batch['inputs'], batch['data_samples'])
        except Exception as error:  # whatever is wrong here must not hide what was found
            return f'; the features could not be looked at ({type(error).__name__}: {error})'
        parts = []
        for name, pyramid in (('student', student), ('teacher', teacher)):
            broken = [s for s, level in zip(strides, pyramid, strict=True) if not torch.isfinite(level).all()]
            where = f'not finite at strides {broken}' if broken else 'finite on all levels'
            parts.append(f"the {name}'s features are {where}")
        return f'; {", ".join(parts)}'


def _shorten(wrapper: Any, skipped: int, begun: bool = False) -> None:
    """Tell an accumulation that iterations were left out: of those to come, or of those that it has ``begun`` with."""
    if not isinstance(wrapper, OptimWrapper) or wrapper._max_counts < 0:
        return
    if begun:
        wrapper._inner_count -= skipped
    wrapper._max_counts -= skipped
    wrapper._remainder_counts = wrapper._max_counts % wrapper._accumulative_counts


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
            mean = part.detach().float().mean().item()
            if not torch.isfinite(torch.tensor(mean)):
                found.append(f'{label} = {mean}')
    return ', '.join(found) or 'every term is finite, their sum is not'
