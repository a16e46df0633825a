"""Warm distillation losses up, let them decay, and stop them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import IterBasedTrainLoop, Runner

from mmkd_graph.distillers import GraphDistiller
from mmkd_graph.graph.arguments import argument_error, check_choice, check_number
from mmkd_graph.registry import HOOKS
from mmkd_graph.unwrapping import unwrapped


@HOOKS.register_module()
class LossScheduleHook(Hook):
    """Multiply the weights of distillation losses by a factor that depends on the time alone.

    The factor is 0 before ``begin``, rises linearly from 0 to 1 during ``warmup``, then stays at 1 (``'constant'``) or
    falls to ``end_ratio`` at ``end``, along a line or half a cosine, and stays there. From ``stop`` on it is 0. Where
    it is 0 the loss is not computed, and where all losses are at 0 the teacher does not run. The factor is logged as
    ``kd.<name>.factor``. It is a function of the runner's iteration: a resumed run goes on exactly.

    Parameters of a loss that is not computed get a gradient of zeros, so that DDP needs no
    ``find_unused_parameters``; the student's are not touched by that. A weight that is measured
    (``mmkd_graph.GradientRatio``) is measured in the first iterations in which its loss is computed.

    ``begin``, ``end`` and ``by_epoch`` mean what they mean for mmengine's parameter schedulers, but for one thing: with
    ``by_epoch=True`` the times are in epochs and the factor still moves in every iteration, as theirs do with
    ``convert_to_iter_based``.

    Args:
        losses: names under the model's ``losses``; ``None``: all. Several hooks may share the losses, one hook per
            loss.
        begin: the loss is off before.
        warmup: length of the linear rise from 0 to 1, from ``begin`` on.
        policy: ``'constant'``, ``'linear'`` or ``'cosine'``.
        end: time at which the decay has reached ``end_ratio``; ``None``: the end of the training.
        end_ratio: factor at ``end``.
        stop: the loss is off from here on; ``None``: never.
        by_epoch: times are epochs (fractions allowed), or iterations. The factor changes in every iteration either way.

    Raises:
        ValueError: for an argument out of range; when training starts, if the model has no such loss, if two hooks
            share one, or for ``by_epoch=True`` in a training loop that has no epochs.

    Example:
        >>> hook = LossScheduleHook(warmup=2, policy='cosine', end=6, end_ratio=0.2, stop=8)
        >>> [round(hook.factor(epoch, last=12), 3) for epoch in (0, 1, 2, 4, 6, 7, 8)]
        [0.0, 0.5, 1.0, 0.6, 0.2, 0.2, 0.0]
    """

    def __init__(
        self,
        losses: Sequence[str] | str | None = None,
        begin: float = 0,
        warmup: float = 0,
        policy: str = 'constant',
        end: float | None = None,
        end_ratio: float = 0.0,
        stop: float | None = None,
        by_epoch: bool = True,
    ) -> None:
        for name, value in (('begin', begin), ('warmup', warmup), ('end_ratio', end_ratio)):
            check_number(f'LossScheduleHook.{name}', value)
        check_choice('LossScheduleHook.policy', policy, ('constant', 'linear', 'cosine'))
        if policy == 'constant' and (end is not None or end_ratio):
            raise ValueError(
                f"LossScheduleHook.policy='constant' has no end={end}, end_ratio={end_ratio}; accepted: "
                "policy='linear' or 'cosine' with them, or stop"
            )
        for name, value, least in (('end', end, begin + warmup), ('stop', stop, begin)):
            if value is not None and not least < value < math.inf:
                raise argument_error(f'LossScheduleHook.{name}', repr(value), f'None or a finite number > {least}')
        self.losses = (losses,) if isinstance(losses, str) else None if losses is None else tuple(losses)
        if self.losses == ():
            raise argument_error('LossScheduleHook.losses', repr(losses), 'None (all) or at least one name')
        self.begin, self.warmup, self.stop = begin, warmup, stop
        self.policy, self.end, self.end_ratio, self.by_epoch = policy, end, end_ratio, by_epoch
        self._names: tuple[str, ...] = ()
        self._off: bool | None = None

    def factor(self, time: float, last: float) -> float:
        """The factor at ``time``, in epochs or iterations, of a training that ends at ``last``."""
        if time < self.begin or (self.stop is not None and time >= self.stop):
            return 0.0
        full = self.begin + self.warmup
        if time < full:
            return (time - self.begin) / self.warmup
        if self.policy == 'constant':
            return 1.0
        end = last if self.end is None else self.end
        share = min(1.0, (time - full) / (end - full)) if end > full else 0.0
        fallen = share if self.policy == 'linear' else (1 - math.cos(math.pi * share)) / 2
        return 1.0 + (self.end_ratio - 1.0) * fallen

    def before_train(self, runner: Runner) -> None:
        """Find the losses; see the class for what is refused."""
        model = unwrapped(runner.model)
        if not isinstance(model, GraphDistiller):
            raise ValueError(f'LossScheduleHook: the model is a {type(model).__name__}; accepted: a GraphDistiller')
        self._names = self._scheduled(model)
        others = [hook for hook in runner.hooks if isinstance(hook, LossScheduleHook) and hook is not self]
        taken = {name for hook in others for name in hook._scheduled(model)}
        if both := ', '.join(sorted(taken & {*self._names})):
            raise ValueError(f'LossScheduleHook.losses: {both} has two schedules; accepted: one hook per loss')
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError(
                'LossScheduleHook.by_epoch=True (the default), but train_cfg counts iterations; accepted: '
                'by_epoch=False, with times in iterations'
            )
        last, unit = (runner.max_epochs, 'epochs') if self.by_epoch else (runner.max_iters, 'iterations')
        if self.begin + self.warmup >= last:
            print_log(
                f'LossScheduleHook: begin + warmup is {self.begin + self.warmup} {unit}, the training has {last}: '
                f'the weight of {", ".join(self._names)} never becomes the whole one',
                logger='current',
                level=logging.WARNING,
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set and log the factor of this iteration."""
        model = unwrapped(runner.model)
        if self.by_epoch:
            factor = self.factor(runner.iter / len(runner.train_dataloader), runner.max_epochs)
        else:
            factor = self.factor(runner.iter, runner.max_iters)
        for name in self._names:
            model.set_loss_factor(name, factor)
            runner.message_hub.update_scalar(f'train/kd.{name}.factor', factor)
        if self._off != (factor == 0):
            self._off = factor == 0
            state = 'off' if self._off else 'on'
            print_log(f'{", ".join(self._names)}: {state} from iteration {runner.iter} on', logger='current')

    def _scheduled(self, model: GraphDistiller) -> tuple[str, ...]:
        known = tuple(model.distill.losses)
        if unknown := ', '.join(sorted({*(self.losses or ())} - {*known})):
            raise ValueError(f'LossScheduleHook.losses: {unknown} not in the model; accepted: {", ".join(known)}')
        return known if self.losses is None else self.losses
