"""ScoreKD: class scores of dense heads against the teacher's."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from mmkd_graph.graph import kl_divergence
from mmkd_graph.graph.arguments import check_number
from mmkd_graph.registry import MODELS

from .base import DistillContext, HeadLoss, HeadOutputs, places


@MODELS.register_module()
class ScoreKDLoss(HeadLoss):
    """The teacher's class scores as soft labels of every place.

    With sigmoid, the quality focal loss (arXiv 2006.04388) whose label is the teacher's score: ``Σ_pk |σ(t_pk) -
    σ(s_pk)|² BCE(s_pk, σ(t_pk)) / Σ_p max_k σ(t_pk)`` over all places p, anchors of cells that are no padding, and
    classes k. With softmax, ``Σ_p w_p KL(t_p ‖ s_p) / Σ_p w_p`` with ``w_p = 1 - t_p(background)`` (Hinton et al.,
    arXiv 1503.02531, at temperature 1). What is divided by is at least 1: a batch in which the teacher sees nothing
    does not blow up.

    It cannot see where a box is, nor a centerness or an objectness beside the class scores.

    Args:
        score_weight: weight of the term ``score``.

    Raises:
        ValueError: for a weight that is not a number > 0.

    Example:
        >>> import torch
        >>> from mmkd_graph.losses import HeadSpec
        >>> context = DistillContext(data_samples=(), strides=(8,), batch_shape=(8, 8))
        >>> loss = ScoreKDLoss()
        >>> loss.bind(HeadSpec(strides=(8,), num_classes=2, sigmoid=True, bins=None, name='score'))
        >>> student, teacher = (HeadOutputs((torch.tensor(x).view(1, 2, 1, 1),)) for x in ([0.0, 0.0], [3.0, 0.0]))
        >>> loss(student, teacher, context)
        {'score': tensor(0.1420)}
    """

    reads_teacher_classes = True

    def __init__(self, score_weight: float = 1.0) -> None:
        super().__init__()
        check_number('score_weight', score_weight, positive=True)
        self.score_weight = score_weight

    def forward(self, student: HeadOutputs, teacher: HeadOutputs, context: DistillContext) -> dict[str, Tensor]:
        """Term ``score`` of scores (N, A * K, H, W)."""
        s, t = (places(side.scores, self.spec.outputs, context) for side in (student, teacher))
        return {'score': self.score_weight * score_distance(s, t, self.spec.sigmoid)}


def score_distance(student: Tensor, teacher: Tensor, sigmoid: bool) -> Tensor:
    """The formula of :class:`ScoreKDLoss` for logits (P, K) of places."""
    weights = confidence(teacher, sigmoid)
    distance = quality_focal(student, teacher) if sigmoid else weights * softmax_divergence(student, teacher)
    return distance.sum() / weights.sum().clamp(min=1)


def confidence(logits: Tensor, sigmoid: bool) -> Tensor:
    """How sure a head is of an object, (P,) of logits (P, K): its largest score, with softmax 1 - background."""
    return logits.sigmoid().amax(dim=1) if sigmoid else 1 - logits.softmax(dim=1)[:, -1]


def quality_focal(student: Tensor, teacher: Tensor) -> Tensor:
    """Quality focal loss of logits (P, K) with the teacher's probabilities as labels, summed over the classes: (P,)."""
    labels = teacher.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(student, labels, reduction='none')
    return ((labels - student.sigmoid()).square() * entropy).sum(dim=1)


def softmax_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of the softmax of logits (P, K): (P,)."""
    return kl_divergence(teacher.log_softmax(dim=1), student.log_softmax(dim=1))
