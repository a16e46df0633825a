"""Leave the plain student behind when the training is over."""

from __future__ import annotations

import os.path as osp
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.checkpoint import weights_to_cpu

from mmkd_graph.export import export_student, needs, student_config
from mmkd_graph.registry import HOOKS
from mmkd_graph.unwrapping import unwrapped


@HOOKS.register_module()
class StudentExportHook(Hook):
    """Write the plain student: ``student.pth`` and its config ``student.py``, which mmdet reads without this package.

    The weights are those of the student alone, without adapters, losses, teacher or optimizer state; training
    checkpoints load into the plain detector as they are, these do so *strictly*. With mmengine's ``EMAHook`` they are
    the averaged ones, as in the training checkpoints. ``DetInferencer(weights='student.pth')``,
    ``init_detector('student.py', 'student.pth')`` and mmdet's tools work on them: see
    :func:`~mmkd_graph.export.export_student`.

    Args:
        filename: name inside ``work_dir``; that of the config follows it.

    Raises:
        ValueError: for a ``filename`` that ends in ``.py``; when training starts, if the config would take the place
            of the work dir's own.
    """

    # after EMAHook (NORMAL) in before_save_checkpoint, so that its swapped weights are seen
    priority = 'VERY_LOW'

    def __init__(self, filename: str = 'student.pth') -> None:
        if filename.endswith('.py'):
            raise ValueError(f'filename={filename!r} is where the config goes; accepted: a name that ends in .pth')
        self.filename = filename

    def before_train(self, runner: Runner) -> None:
        """Check that the config will have a name of its own."""
        if runner.cfg.filename and Path(runner.cfg.filename).name == Path(self.filename).with_suffix('.py').name:
            raise ValueError(
                f'StudentExportHook.filename={self.filename!r}: in the work dir is a copy of the config '
                f"{Path(runner.cfg.filename).name!r}, whose place the student's config would take; accepted: another "
                'filename'
            )

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Export; see the class."""
        dataset_meta = getattr(runner.train_dataloader.dataset, 'metainfo', None)
        meta = dict(iter=runner.iter, epoch=runner.epoch, dataset_meta=dataset_meta)
        checkpoint = dict(state_dict=weights_to_cpu(unwrapped(runner.model).state_dict()), meta=meta)
        runner.call_hook('before_save_checkpoint', checkpoint=checkpoint)
        path = osp.join(runner.work_dir, self.filename)
        config = export_student(checkpoint, runner.cfg, path)
        runner.logger.info(f'Student without its distillation parts written to {path}, its config to {config}')
        for what in needs(student_config(runner.cfg)):
            runner.logger.info(f'Wherever this student runs, it needs {what}')
