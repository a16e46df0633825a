"""LD: localization distillation (arXiv 2102.12252)."""

from __future__ import annotations

from torch import Tensor

from mmkd_graph.graph import kl_divergence
from mmkd_graph.graph.arguments import check_number
from mmkd_graph.registry import MODELS

from .base import DistillContext, HeadLoss, HeadOutputs, places
from .score import confidence


@MODELS.register_module()
class LDLoss(HeadLoss):
    """Divergence of the distributions of box edges, where the student has an object.

    ``1/N Σ_p w_p 1/4 Σ_e τ²/n KL(softmax(t_pe / τ) ‖ softmax(s_pe / τ))`` for heads that predict a distribution over n
    values for each edge e of a box (GFL; localization distillation, arXiv 2102.12252). The region is the paper's main
    one: p are the positives of the student's own assigner. Each has the student's largest class score as weight w,
    detached.

    This is mmdet's ``LDHead``, which is the authors', but for N: there, the sum over the images of a GPU counts, two of
    them in the authors' configs with weight 0.25.

    It cannot see class scores, nor boxes elsewhere: the paper's valuable region is left out.

    Args:
        ld_weight: weight of the term ``ld``, a sum over positives divided by the number of images. With two images, 0.5
            is the authors' 0.25 and that of mmdet's ``LDHead``, which do not divide.
        tau: temperature of the softmax.

    Raises:
        ValueError: for a number outside what is accepted; when bound, if the heads predict no distributions.

    Example:
        >>> import torch
        >>> from mmkd_graph.losses import HeadSpec
        >>> context = DistillContext(data_samples=(), strides=(8,), batch_shape=(8, 8))
        >>> loss = LDLoss(tau=1.0)
        >>> loss.bind(HeadSpec(strides=(8,), num_classes=1, sigmoid=True, bins=2, name='ld'))
        >>> scores, positives = (torch.zeros(1, 1, 1, 1),), (torch.ones(1, 1, 1, 1, dtype=torch.bool),)
        >>> student = HeadOutputs(scores, (torch.zeros(1, 8, 1, 1),), positives)
        >>> teacher = HeadOutputs(scores, (torch.tensor([0.0, 2.0] * 4).view(1, 8, 1, 1),))
        >>> loss(student, teacher, context)
        {'ld': tensor(0.0410)}
    """

    reads_boxes = True
    reads_positives = True

    def __init__(self, ld_weight: float = 0.5, tau: float = 10.0) -> None:
        super().__init__()
        check_number('ld_weight', ld_weight, positive=True)
        check_number('tau', tau, positive=True)
        self.ld_weight, self.tau = ld_weight, tau

    def forward(self, student: HeadOutputs, teacher: HeadOutputs, context: DistillContext) -> dict[str, Tensor]:
        """Term ``ld`` of boxes (N, 4 * n, H, W), scores (N, K, H, W) and positives (N, 1, H, W)."""
        assert self.spec.bins  # the distiller has refused other heads
        positive = places(student.positives, 1, context)[:, 0]
        s, t = (places(side.boxes, 4 * self.spec.bins, context)[positive] for side in (student, teacher))
        weights = confidence(places(student.scores, self.spec.outputs, context)[positive].detach(), self.spec.sigmoid)
        divergence = edge_divergence(s, t, self.spec.bins, self.tau)
        return {'ld': self.ld_weight * (weights * divergence).sum() / len(student.scores[0])}


def edge_divergence(student: Tensor, teacher: Tensor, bins: int, tau: float) -> Tensor:
    """Mean over the edges of τ²/n KL(teacher ‖ student): (P,) of logits (P, 4 * n), n ``bins``."""
    log_s, log_t = ((x.unflatten(1, (4, bins)) / tau).log_softmax(dim=-1) for x in (student, teacher))
    return tau**2 / bins * kl_divergence(log_t, log_s).mean(dim=1)
