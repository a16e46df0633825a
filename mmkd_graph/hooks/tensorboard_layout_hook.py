"""Show the terms of each distillation loss together in TensorBoard."""

from __future__ import annotations

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.visualization import TensorboardVisBackend

from mmkd_graph.distillers import GraphDistiller
from mmkd_graph.registry import HOOKS
from mmkd_graph.unwrapping import unwrapped

Layout = dict[str, dict[str, list]]
"""Charts by category, as ``SummaryWriter.add_custom_scalars`` takes them."""


@HOOKS.register_module()
class TensorboardLayoutHook(Hook):
    """Write a layout of charts for TensorBoard's tab "Custom Scalars": one chart with all terms of each loss.

    TensorBoard's other tabs group curves by what is before the ``/`` in their names. The names of losses have none
    (``loss_kd.crg.vertex``), and they stay as they are: scripts, resumed logs and the other backends know them. The
    layout groups them without renaming. ``tools/train.py`` and ``mmkd_graph.TrainingRunner`` add this hook to every
    distillation whose visualizer has a ``TensorboardVisBackend``.

    Example:
        >>> vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
        >>> visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends, name='visualizer')
        >>> custom_hooks = [dict(type='mmkd_graph.TensorboardLayoutHook')]
    """

    def before_train(self, runner: Runner) -> None:
        """Write the layout; without a distiller or TensorBoard nothing happens."""
        model = unwrapped(runner.model)
        if not is_main_process() or not isinstance(model, GraphDistiller):
            return
        for backend in runner.visualizer._vis_backends.values():
            if isinstance(backend, TensorboardVisBackend):
                backend.experiment.add_custom_scalars(layout(model.distill.losses))


def layout(losses: list[str]) -> Layout:
    """Charts of the losses with these names; curves are chosen by regular expressions, matched from their start.

    Example:
        >>> layout(['crg'])['distillation']['crg, as weighted in the sum']
        ['Multiline', ['loss_kd\\\\.crg\\\\.']]
    """

    def chart(pattern: str) -> list:
        return ['Multiline', [pattern]]

    distillation = {}
    for name in losses:
        distillation[f'{name}, as weighted in the sum'] = chart(rf'loss_kd\.{name}\.')
        distillation[f'{name}, logged alone: gradient ratio, factor, terms of weight 0'] = chart(rf'kd\.{name}\.')
    return {
        'distillation': distillation,
        'student': {'task losses, and the sum of all terms': chart(r'(?!loss_kd\.|kd\.).*loss')},
        'validation': {'average precision': chart('.*mAP')},
    }
