"""FitNet: plain feature imitation (arXiv 1412.6550)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from mmkd_graph.graph.arguments import check_number
from mmkd_graph.registry import MODELS

from .base import DistillContext, Pyramid, PyramidLoss, total


@MODELS.register_module()
class FitNetLoss(PyramidLoss):
    """Mean squared difference of the features, a sum over levels of ``mean (S - T)²``.

    The oldest feature distillation (FitNets, arXiv 1412.6550). The paper trains half the squared distance of one hint
    layer, as a stage before the task. What detection papers call FitNet, and what this follows, is the mean
    over all entries of every pyramid level beside the task losses, each level through a learned 1×1 convolution, with
    weight 1 (LutingWang/HEAD, the code of arXiv 2207.05345). The convolutions are the distiller's:
    ``adapter='always'``.

    Args:
        mse_weight: weight of the term ``mse``; as in HEAD (arXiv 2207.05345) for RetinaNet, with ``adapter='always'``.

    Raises:
        ValueError: for a weight that is not a number > 0.

    Example:
        >>> import torch
        >>> context = DistillContext(data_samples=(), strides=(8,), batch_shape=(16, 16))
        >>> FitNetLoss()((torch.zeros(1, 2, 2, 2),), (torch.full((1, 2, 2, 2), 3.0),), context)
        {'mse': tensor(9.)}
    """

    def __init__(self, mse_weight: float = 1.0) -> None:
        super().__init__()
        check_number('mse_weight', mse_weight, positive=True)
        self.mse_weight = mse_weight

    def forward(self, student: Pyramid, teacher: Pyramid, context: DistillContext) -> dict[str, Tensor]:
        """Term ``mse`` of levels (N, C_l, H_l, W_l)."""
        return {'mse': self.mse_weight * total(map(F.mse_loss, student, teacher))}
