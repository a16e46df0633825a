"""CWD: channel-wise knowledge distillation (arXiv 2011.13256)."""

from __future__ import annotations

from torch import Tensor

from mmkd_graph.graph import kl_divergence
from mmkd_graph.graph.arguments import check_number
from mmkd_graph.registry import MODELS

from .base import DistillContext, Pyramid, PyramidLoss, total


@MODELS.register_module()
class CWDLoss(PyramidLoss):
    """Divergence of the channels, each of them a distribution over space.

    ``τ²/(NC) Σ_nc KL(φ(T) ‖ φ(S))`` with φ the softmax over space of a channel divided by τ, a sum over levels (CWD,
    arXiv 2011.13256).

    The code that the authors name for detection (pppppM/mmdetection-distiller) leaves the teacher's entropy out: same
    gradient, a value that is not 0 at the minimum. This is the divergence of the paper, as in mmrazor.

    Args:
        divergence_weight: weight of the term ``divergence``; the authors' for RetinaNet, on P3 to P6. mmrazor's configs
            have 10 on all five levels.
        tau: temperature of the softmax, in the unit of the features; 4 for segmentation.

    Raises:
        ValueError: for a number outside what is accepted.

    Example:
        >>> import torch
        >>> context = DistillContext(data_samples=(), strides=(8,), batch_shape=(8, 16))
        >>> student, teacher = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.0, 3.0]]]])
        >>> CWDLoss(divergence_weight=1.0)((student,), (teacher,), context)
        {'divergence': tensor(0.5023)}
    """

    def __init__(self, divergence_weight: float = 5.0, tau: float = 1.0) -> None:
        super().__init__()
        check_number('divergence_weight', divergence_weight, positive=True)
        check_number('tau', tau, positive=True)
        self.divergence_weight, self.tau = divergence_weight, tau

    def forward(self, student: Pyramid, teacher: Pyramid, context: DistillContext) -> dict[str, Tensor]:
        """Term ``divergence`` of levels (N, C_l, H_l, W_l)."""
        values = []
        for s, t in zip(student, teacher, strict=True):
            log_s, log_t = ((x.flatten(2) / self.tau).log_softmax(dim=-1) for x in (s, t))
            values.append(self.tau**2 * kl_divergence(log_t, log_s).mean())
        return {'divergence': self.divergence_weight * total(values)}
