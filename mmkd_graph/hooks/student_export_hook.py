"""Leave the plain student behind when the training is over."""

from __future__ import annotations

import os.path as osp

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.runner.checkpoint import weights_to_cpu

from mmkd_graph.checkpoints import save_whole
from mmkd_graph.registry import HOOKS


@HOOKS.register_module()
class StudentExportHook(Hook):
    """Write ``student.pth``: the student's weights alone, without adapters, losses, teacher or optimizer state.

    Training checkpoints load into the plain detector as they are; this file does so *strictly*. With
    mmengine's ``EMAHook`` it holds the averaged weights, as the training checkpoints do.

    Args:
        filename: name inside ``work_dir``.
    """

    # after EMAHook (NORMAL) in before_save_checkpoint, so that its swapped weights are seen
    priority = 'VERY_LOW'

    def __init__(self, filename: str = 'student.pth') -> None:
        self.filename = filename

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Export; see the class."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        checkpoint = dict(state_dict=weights_to_cpu(model.state_dict()), meta={})
        runner.call_hook('before_save_checkpoint', checkpoint=checkpoint)
        state = {k: v for k, v in checkpoint['state_dict'].items() if not k.startswith('distill.')}
        dataset_meta = getattr(runner.train_dataloader.dataset, 'metainfo', None)
        meta = dict(iter=runner.iter, epoch=runner.epoch, dataset_meta=dataset_meta)
        path = osp.join(runner.work_dir, self.filename)
        save_whole(dict(state_dict=state, meta=meta), path)
        runner.logger.info(f'Student without its distillation parts written to {path}')
