"""Make up for a validation that a killed training has missed."""

from __future__ import annotations

from bisect import bisect
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.optim import ReduceOnPlateauParamScheduler
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from mmkd_graph.registry import HOOKS

from .validations import Validation, numbers, read_validations, write_validations


@HOOKS.register_module()
class DueValidationHook(Hook):
    """Validate when a training is resumed from a checkpoint whose validation was due and was not finished.

    mmengine saves before it validates and never comes back to a validation in which the training was killed: the last
    metric and ``best_*.pth`` are missing. This hook notes finished validations and their metrics in
    ``<work dir>/validated.json``. A resumed training, also one that was complete, begins with what is missing. Where a
    ``ReduceOnPlateauParamScheduler`` reads the metric, the validation is always repeated: the checkpoint was written
    before it. Both of mmengine's training loops are known; others are left alone. ``tools/train.py`` and
    ``mmkd_graph.TrainingRunner`` add this hook to every training.

    Example:
        >>> custom_hooks = [dict(type='mmkd_graph.DueValidationHook')]
    """

    # after all others: what they prepare for the training is there for this validation, what they save is noted
    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        """Run what is due."""
        if not runner.iter:
            if is_main_process():
                write_validations(runner.work_dir, [])
            return
        done = [False]
        if is_main_process():  # what comes after this checkpoint will be done again
            past = [one for one in read_validations(runner.work_dir) if one.iter <= runner.iter]
            write_validations(runner.work_dir, past)
            done = [runner.iter in [one.iter for one in past]]
        broadcast_object_list(done)
        if _is_due(runner) and (not done[0] or _reads_metrics(runner)):
            runner.logger.info(f'A validation is due at iteration {runner.iter}, where the training was ended')
            runner.val_loop.run()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Note that a validation of the training is finished."""
        loop = runner._train_loop  # as a property it would be built, where there is validation alone
        if is_main_process() and isinstance(loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
            done = {one.iter: one for one in read_validations(runner.work_dir)}
            done[runner.iter] = Validation(runner.iter, runner.epoch, numbers(metrics))
            write_validations(runner.work_dir, [done[i] for i in sorted(done)])


def _is_due(runner: Runner) -> bool:
    """Whether the loop would have validated where the training is now."""
    loop = runner.train_loop
    if runner.val_loop is None or not isinstance(loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
        return False
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    now, last = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
    if by_epoch and loop.iter % len(loop.dataloader):  # a checkpoint from the middle of an epoch
        return False
    interval = loop.dynamic_intervals[bisect(loop.dynamic_milestones, now + 1) - 1]
    return now >= loop.val_begin and (now % interval == 0 or now == last)


def _reads_metrics(runner: Runner) -> bool:
    schedulers = runner.param_schedulers or []
    parts = schedulers.values() if isinstance(schedulers, dict) else [schedulers]
    return any(isinstance(one, ReduceOnPlateauParamScheduler) for part in parts for one in part)
