"""DIST: relations of class scores (arXiv 2205.10536)."""

from __future__ import annotations

import torch
from torch import Tensor

from mmkd_graph.registry import MODELS

from .base import DistillContext, HeadLoss, HeadOutputs, HeadSpec, places, term_weights

DEAD = 1e-6
"""Values whose deviation is below this share of their own root mean square are constant."""


@MODELS.register_module()
class DISTLoss(HeadLoss):
    """Correlation of class scores: over the classes of each place, and over the places of each class.

    - ``inter``: mean over places of ``1 - r(S_p, T_p)``, r Pearson's correlation of the K scores of a place.
    - ``intra``: mean over classes of ``1 - r(S_k, T_k)``, of the scores of a class at all places of a batch.

    S and T are probabilities, sigmoid or softmax as the heads have it (DIST, arXiv 2205.10536, at temperature 1). A
    place is an anchor of a cell that is no padding; those of all levels and images are one set.

    It cannot see how large scores are: positive rescaling and shifting changes nothing, so a place of background
    counts for ``inter`` as an object does. A place or class whose scores are all the same, on one side, has no relation
    and is left out. Of two classes ``inter`` sees the order alone; of one there is no ``inter``.

    Args:
        inter_weight: weight of the term ``inter``, the paper's β.
        intra_weight: weight of the term ``intra``, the paper's γ. The places of a class are those of all levels and
            images of the batch.

    Raises:
        ValueError: for weights that are not numbers >= 0, or both 0; when bound, if there is one class and
            ``intra_weight`` is 0.

    Example:
        >>> from mmkd_graph.losses import HeadSpec
        >>> context = DistillContext(data_samples=(), strides=(8,), batch_shape=(8, 16))
        >>> loss = DISTLoss()
        >>> loss.bind(HeadSpec(strides=(8,), num_classes=2, sigmoid=True, bins=None, name='dist'))
        >>> x = torch.tensor([[[[0.0, 1.0]], [[2.0, 0.0]]]])
        >>> loss(HeadOutputs((x,)), HeadOutputs((x.flip(1),)), context)
        {'inter': tensor(2.), 'intra': tensor(2.)}
    """

    reads_teacher_classes = True

    def __init__(self, inter_weight: float = 1.0, intra_weight: float = 1.0) -> None:
        super().__init__()
        self.weights = term_weights(inter=inter_weight, intra=intra_weight)

    def bind(self, spec: HeadSpec) -> None:
        """Keep ``spec``, if there is a relation to compare."""
        super().bind(spec)
        if spec.outputs == 1:
            self.weights['inter'] = 0
        if not any(self.weights.values()):
            raise ValueError(f'losses.{spec.name}.intra_weight=0: one class has no relation to others; accepted: > 0')

    def forward(self, student: HeadOutputs, teacher: HeadOutputs, context: DistillContext) -> dict[str, Tensor]:
        """Terms ``inter`` and ``intra`` of scores (N, A * K, H, W). A term of weight 0 is left out."""
        s, t = (self._probabilities(places(side.scores, self.spec.outputs, context)) for side in (student, teacher))
        terms = {}
        if self.weights['inter']:
            terms['inter'] = self.weights['inter'] * decorrelation(s, t)
        if self.weights['intra']:
            terms['intra'] = self.weights['intra'] * decorrelation(s.mT, t.mT)
        return terms

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.spec.sigmoid else logits.softmax(dim=1)


def decorrelation(first: Tensor, second: Tensor) -> Tensor:
    """Mean of 1 - Pearson's correlation of pairs of rows (R, n); a pair with a constant row does not count."""
    a, dead_a = direction(first)
    b, dead_b = direction(second)
    dead = dead_a | dead_b
    return torch.where(dead, 0, 1 - (a * b).sum(dim=1)).sum() / (~dead).sum().clamp(min=1)


def direction(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (R, n) with mean 0 and length 1, zeros where they are constant; and which are (R,)."""
    # The direction does not depend on the scale; a detached one keeps squares of small scores in range.
    rows = rows / rows.detach().abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
    centered = rows - rows.mean(dim=1, keepdim=True)
    power, variance = (x.detach().square().mean(dim=1, keepdim=True) for x in (rows, centered))
    dead = variance <= DEAD**2 * power
    # Two masks: the inner one keeps the quotient finite, the outer one stops its gradient.
    length = torch.linalg.vector_norm(centered, dim=1, keepdim=True)
    return torch.where(dead, 0, centered / length.masked_fill(dead, 1)), dead[:, 0]
