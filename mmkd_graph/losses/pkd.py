"""PKD: distillation by Pearson correlation (arXiv 2207.02039)."""

from __future__ import annotations

from torch import Tensor

from mmkd_graph.graph import unit_vertices
from mmkd_graph.graph.arguments import check_number
from mmkd_graph.graph.precision import no_autocast
from mmkd_graph.registry import MODELS

from .interface import DistillContext, Pyramid, PyramidLoss


@MODELS.register_module()
class PKDLoss(PyramidLoss):
    r"""Squared difference of features brought to zero mean and unit variance, per channel over the batch.

    A sum over levels of :math:`\frac{1}{2} \mathrm{mean} (\hat F_S - \hat F_T)^2`, the mean and the variance of each
    channel taken over images and positions. With m values per channel that is :math:`\frac{m-1}{m}(1 - r)`, averaged
    over channels, r their Pearson correlation; positive rescaling and shifting of any channel changes nothing (PKD,
    arXiv 2207.02039).

    The paper's 1 - r would need a variance over m; the authors' code (mmrazor) has the unbiased one, over m - 1, and
    adds 1e-6 to the standard deviation. This follows the code, except that instead of the 1e-6 a dead channel (see
    :func:`~mmkd_graph.graph.unit_vertices`) becomes zeros that pass no gradient; theirs would be up to a million times
    that of its neighbours, and is NaN where m = 1.

    Args:
        pearson_weight: weight of the term ``pearson``. The authors take 10 for RetinaNet with a dense teacher, 6 for
            Faster R-CNN and with a Mask R-CNN teacher, on the four finest levels.

    Raises:
        ValueError: for a weight that is not a number >= 0.

    Example:
        >>> import torch
        >>> context = DistillContext(data_samples=(), strides=(8,), batch_shape=(8, 32))
        >>> x = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
        >>> loss = PKDLoss(pearson_weight=1.0)
        >>> [round(loss((x,), (y,), context)['pearson'].item(), 4) for y in (x, 5 * x + 2, -x)]
        [0.0, 0.0, 1.5]
    """

    def __init__(self, pearson_weight: float = 10.0) -> None:
        super().__init__()
        check_number('pearson_weight', pearson_weight)
        self.pearson_weight = pearson_weight

    def forward(self, student: Pyramid, teacher: Pyramid, context: DistillContext) -> dict[str, Tensor]:
        """Term ``pearson`` of levels (N, C_l, H_l, W_l)."""
        total = 0
        for s, t in zip(student, teacher, strict=True):
            with no_autocast(s):
                s, t = (unit_vertices(x, 'pearson', per='batch') for x in (s, t))
                _, channels, values = s.shape
                # Unit variance is a norm of sqrt(m - 1); the vertices have norm 1.
                share = (values - 1) / (2 * values * channels)
                total = total + share * (s - t).square().sum()
        return {'pearson': self.pearson_weight * total}
