"""Name the image where a batch cannot be read."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd_graph.datasets.reading import name_images
from mmkd_graph.registry import HOOKS


@HOOKS.register_module()
class UnreadableImageHook(Hook):
    """Let errors of the data pipeline name the image, in training, validation and test.

    An image that OpenCV cannot decode, or a transform that does not take its boxes, otherwise ends a training with an
    error of a worker process that does not say which image it was. ``SeededSampler`` does the same for training data,
    also where an iteration-based loop of upstream mmengine starts its workers before any hook. ``tools/train.py``
    adds this hook to every training.

    Raises:
        UnreadableImage: while a batch is read.

    Example:
        >>> custom_hooks = [dict(type='mmkd_graph.UnreadableImageHook')]
    """

    # before a hook that reads images
    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """For the training data."""
        name_images(runner.train_dataloader.dataset)

    def before_val(self, runner: Runner) -> None:
        """For the validation data."""
        name_images(runner.val_dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        """For the test data."""
        name_images(runner.test_dataloader.dataset)
