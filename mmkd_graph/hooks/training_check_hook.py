"""Check, before a training starts, whether it would be wasted, and stop it if so."""

from __future__ import annotations

import torch
from mmengine.dist import barrier
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmkd_graph.checking import OK, CheckFailed, check_runner, failed
from mmkd_graph.registry import HOOKS


@HOOKS.register_module()
class TrainingCheckHook(Hook):
    """Run the cheap part of ``tools/check.py`` when a training starts or goes on; stop it with the same words.

    Classes of student, teacher and data; heads; paired levels; that images can be read; that every loss is finite, not
    zero, and that its gradient reaches the student. It takes some seconds: three training batches are read and, as
    a rule, one of them goes through student and teacher. The training is the same to the last bit with and without
    it. With several processes all of them check, and all stop if one finds a failure. ``tools/train.py`` adds this hook
    to every distillation.

    Raises:
        CheckFailed: when the training starts, with one line per failure.

    Example:
        >>> custom_hooks = [dict(type='mmkd_graph.TrainingCheckHook')]
    """

    # before other hooks begin their work
    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Check, log the findings, and raise; see the class."""
        findings = check_runner(runner)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the copy of the student is gone
        for finding in findings:
            print_log(str(finding), logger='current', level=20 if finding.level == OK else 30)
        if failed(findings):
            barrier()  # the rank that logs has done so before another one ends the job
            raise CheckFailed(findings)
