"""CrossKD: cross-head knowledge distillation (arXiv 2306.11369)."""

from __future__ import annotations

import torch
from torch import Tensor

from mmkd_graph.graph.arguments import check_integer, check_number
from mmkd_graph.registry import MODELS

from .base import DistillContext, HeadLoss, HeadOutputs, places, term_weights
from .ld import edge_divergence
from .score import confidence, score_distance

EPS = 1e-6
"""Square pixels that are added to areas, so that boxes without any can be compared."""


@MODELS.register_module()
class CrossKDLoss(HeadLoss):
    """The teacher's head on the student's features against the teacher's head on its own.

    The student's features after ``stage`` convolutions of its two towers go through the rest of the teacher's frozen
    towers and its predictors; what comes out, the cross-head predictions, is compared with what the teacher predicts.
    Ground truth and teacher, which contradict each other at some places, so pull at different predictions (cross-head
    knowledge distillation, arXiv 2306.11369).

    - ``score``: the distance of :class:`~mmkd_graph.losses.ScoreKDLoss`, the quality focal loss for sigmoid heads.
    - ``box``: ``Σ_p w_p D_p / Σ_p w_p`` over all places p that are no padding, w the teacher's largest score.
      D is that of :class:`~mmkd_graph.losses.LDLoss` where the teacher predicts distributions of edges, with the same
      temperature, otherwise 1 - GIoU of the decoded boxes (arXiv 1902.09630).

    Nothing here trains the student's own predictors and the convolutions behind ``stage``: they learn from the task
    alone. It cannot see a centerness or an objectness beside the class scores.

    Written from the paper alone; the weights w are this package's reading of its region selection.

    Args:
        score_weight: weight of the term ``score``.
        box_weight: weight of the term ``box``.
        stage: number of convolutions of the student's towers that its features have passed; the paper's 3 of 4.
        tau: temperature of the distributions of edges, as in LD.

    Raises:
        ValueError: for a number outside what is accepted; when built, if a tower has fewer convolutions.
    """

    reads_boxes = True

    def __init__(self, score_weight: float = 1.0, box_weight: float = 1.0, stage: int = 3, tau: float = 10.0) -> None:
        super().__init__()
        self.weights = term_weights(score=score_weight, box=box_weight)
        check_integer('stage', stage, 1)
        check_number('tau', tau, positive=True)
        self.stage, self.tau = stage, tau
        self.reads_teacher_classes = score_weight > 0

    def forward(self, student: HeadOutputs, teacher: HeadOutputs, context: DistillContext) -> dict[str, Tensor]:
        """Terms ``score`` and ``box`` of the cross-head predictions ``student``. A term of weight 0 is left out."""
        s, t = (places(side.scores, self.spec.outputs, context) for side in (student, teacher))
        terms = {}
        if self.weights['score']:
            terms['score'] = self.weights['score'] * score_distance(s, t, self.spec.sigmoid)
        if self.weights['box']:
            weights = confidence(t, self.spec.sigmoid)
            distance = self._box_distance(student, teacher, context)
            terms['box'] = self.weights['box'] * (weights * distance).sum() / weights.sum().clamp(min=EPS)
        return terms

    def _box_distance(self, student: HeadOutputs, teacher: HeadOutputs, context: DistillContext) -> Tensor:
        s, t = (places(side.boxes, 4 * (self.spec.bins or 1), context) for side in (student, teacher))
        return edge_divergence(s, t, self.spec.bins, self.tau) if self.spec.bins else 1 - giou(s, t)


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalized intersection over union (P,) of pairs of boxes (P, 4), x1, y1, x2, y2 in pixels.

    Equal boxes have 1, those without area too.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [9.0, 9.0, 9.0, 9.0]])
        >>> giou(boxes, boxes[[0, 0, 2]])
        tensor([1.0000, 0.3333, 1.0000])
    """
    intersection = area(torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:]))
    union = area(first[:, :2], first[:, 2:]) + area(second[:, :2], second[:, 2:]) - intersection
    enclosing = area(torch.minimum(first[:, :2], second[:, :2]), torch.maximum(first[:, 2:], second[:, 2:]))
    return (intersection + EPS) / (union + EPS) - (enclosing - union) / (enclosing + EPS)


def area(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    """(P,) areas between corners (P, 2); 0 where they are not in order."""
    return (bottom_right - top_left).clamp(min=0).prod(dim=1)
