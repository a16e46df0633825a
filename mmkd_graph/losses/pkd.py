"""PKD: distillation by Pearson correlation (arXiv 2207.02039)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmkd_graph.graph.arguments import check_number
from mmkd_graph.registry import MODELS

from .base import DistillContext, Pyramid, PyramidLoss, total

DEAD = 1e-6
"""A channel whose deviation is below this share of its own root mean square, or of the largest one, is constant."""


@MODELS.register_module()
class PKDLoss(PyramidLoss):
    """Squared difference of features brought to zero mean and unit variance, per channel over the batch.

    A sum over levels of ``½ mean (Ŝ - T̂)²``, the mean and the variance of each channel taken over images and
    positions. With m values per channel that is ``(m-1)/m (1 - r)``, averaged over channels, r their Pearson
    correlation; positive rescaling and shifting of any channel changes nothing (PKD, arXiv 2207.02039).

    The paper's 1 - r would need a variance over m; the authors' code (mmrazor) has the unbiased one, over m - 1, and
    adds 1e-6 to the standard deviation. This follows the code, except that instead of the 1e-6 a constant channel
    becomes zeros that pass no gradient; theirs would be up to a million times that of its neighbours, and is NaN where
    m = 1.

    Args:
        pearson_weight: weight of the term ``pearson``; the authors' for RetinaNet with a dense teacher, on P3 to P6. 6
            for Faster R-CNN and with a Mask R-CNN teacher.

    Raises:
        ValueError: for a weight that is not a number > 0.

    Example:
        >>> context = DistillContext(data_samples=(), strides=(8,), batch_shape=(8, 32))
        >>> x = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
        >>> loss = PKDLoss(pearson_weight=1.0)
        >>> [round(loss((x,), (y,), context)['pearson'].item(), 4) for y in (x, 5 * x + 2, -x)]
        [0.0, 0.0, 1.5]
    """

    def __init__(self, pearson_weight: float = 10.0) -> None:
        super().__init__()
        check_number('pearson_weight', pearson_weight, positive=True)
        self.pearson_weight = pearson_weight

    def forward(self, student: Pyramid, teacher: Pyramid, context: DistillContext) -> dict[str, Tensor]:
        """Term ``pearson`` of levels (N, C_l, H_l, W_l)."""
        pairs = zip(map(standardized, student), map(standardized, teacher), strict=True)
        return {'pearson': self.pearson_weight * total(F.mse_loss(s, t) / 2 for s, t in pairs)}


def standardized(level: Tensor) -> Tensor:
    """Every channel of a level (N, C, H, W) with mean 0 and variance 1 over images and positions; zeros if constant."""
    centered = level - level.mean((0, 2, 3), keepdim=True)
    power, variance = (x.detach().square().mean((0, 2, 3), keepdim=True) for x in (level, centered))
    constant = variance <= DEAD**2 * torch.maximum(power, variance.max())
    # Two masks: the inner one keeps the quotient finite, the outer one stops its gradient.
    deviation = torch.linalg.vector_norm(centered, dim=(0, 2, 3), keepdim=True) / max(level[:, 0].numel() - 1, 1) ** 0.5
    return torch.where(constant, 0, centered / deviation.masked_fill(constant, 1))
