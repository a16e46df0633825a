"""REFILLED: relationship matching, for teachers that know other classes (arXiv 2205.01915)."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_graph.graph import center_divergence, semihard_tuples, tuple_divergence, unit_length
from mmkd_graph.graph.arguments import check_choice, check_integer, check_number
from mmkd_graph.necks import draw_cells, pool_instances, read_instances
from mmkd_graph.registry import MODELS

from .base import DistillContext, LevelWeights, Pyramid, PyramidLoss, PyramidSpec, level_shares, term_weights


@MODELS.register_module()
class REFILLEDLoss(PyramidLoss):
    """How samples of an image compare, and a classifier made of the teacher's class centres.

    Nothing of the teacher's classes is used: its pyramid embeds the student's samples, and the labels are the
    student's. So the teacher may know the same classes, others, or some of both. A sample is a cell of the finest
    level, with the class of the smallest box around it or that of the background, or an instance, its box.

    *Embedding.* A sample's embedding is the mean over its square or box of every level (RoIAlign). Term ``embedding``
    compares them (each level's part of a fixed length, together of length 1) inside tuples of an anchor, a positive of
    its class and the semi-hard negatives of the **student's** space: KL(teacher ‖ student) of ``softmax(-distance /
    τ₁)``.

    *Local classifier.* The mean of each class's teacher embeddings over the training so far, on all ranks, is the
    class's centre (a buffer). Term ``classifier``: the inner products with the centres of the classes in the batch are
    the teacher's scores for a sample, and a linear classifier on the student's embedding, which the plain student
    does not have, learns their softmax at τ₂. The background is a class here.

    Args:
        num_classes: required; number of classes of the **student's** data set. A label that is not below it is an
            error.
        embedding_weight: weight of the tuples; 1000 in the authors' code, in a stage of its own.
        classifier_weight: weight of the local classifier; 100 in the authors' code, beside the labels, in a stage of
            its own.
        embedding_temperature: τ₁, in the unit of distances of unit vectors; as in the authors' code.
        classifier_temperature: τ₂, in the unit of the inner products; as in the authors' code.
        margin: of the semi-hard negatives; as in the authors' code.
        num_negatives: maximum number per tuple, the nearest first; ``None``: all, as in the authors' code. A tuple with
            fewer keeps those.
        samples: ``'cells'`` of the finest level (:func:`~mmkd_graph.necks.draw_cells`), or ``'instances'``, which
            correspond to the paper's images.
        max_cells: number of cells, of a rank's batch, redrawn in every pass by torch's global generator.
        max_instances: maximum number per image, the largest first; ``None``: all.
        centered: subtract the mean of all samples from embeddings before they are compared. Without it, what they
            share, which is most of them, makes every distance small.
        level_weights: of the squared distances: ``'area'`` (every cell has the same weight), ``'equal'`` (every level),
            or one number per paired level, finest first.

    Raises:
        ValueError: for a choice or number outside what is accepted; names the key.

    Source: arXiv 2205.01915 and its predecessor *Distilling Cross-Task Knowledge via Relationship Matching*, CVPR 2020.

    Example:
        >>> from mmdet.structures import DetDataSample
        >>> from mmengine.structures import InstanceData
        >>> sample = DetDataSample()
        >>> boxes = torch.tensor([[0.0, 0.0, 32.0, 32.0], [16.0, 16.0, 60.0, 60.0]])
        >>> sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 2]))
        >>> context = DistillContext(data_samples=[sample], strides=(8,), batch_shape=(64, 64))
        >>> loss = REFILLEDLoss(num_classes=3)
        >>> loss.bind(PyramidSpec(strides=(8,), student_channels=(4,), teacher_channels=(4,), name='refilled'))
        >>> level = torch.rand(1, 4, 8, 8)
        >>> sorted(loss((level,), (level,), context))
        ['classifier', 'embedding']
    """

    def __init__(
        self,
        num_classes: int | None = None,
        embedding_weight: float = 500.0,
        classifier_weight: float = 0.1,
        embedding_temperature: float = 4.0,
        classifier_temperature: float = 2.0,
        margin: float = 0.2,
        num_negatives: int | None = None,
        samples: str = 'cells',
        max_cells: int = 128,
        max_instances: int | None = 100,
        centered: bool = True,
        level_weights: LevelWeights = 'area',
    ) -> None:
        super().__init__()
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(
                f"num_classes={num_classes!r}; accepted: the classes of the student's data set, an integer >= 1"
            )
        self.weights = term_weights(embedding=embedding_weight, classifier=classifier_weight)
        positive = dict(
            embedding_temperature=embedding_temperature, classifier_temperature=classifier_temperature, margin=margin
        )
        for key, value in positive.items():
            check_number(key, value, positive=True)
        check_integer('num_negatives', num_negatives, 1, optional=True)
        check_choice('samples', samples, ('cells', 'instances'))
        check_integer('max_cells', max_cells, 2)
        check_integer('max_instances', max_instances, 1, optional=True)
        self.num_classes, self.margin, self.num_negatives = num_classes, margin, num_negatives
        self.samples, self.max_cells, self.centered, self.level_weights = samples, max_cells, centered, level_weights
        self.kinds = num_classes + (samples == 'cells')  # with the background
        self.embedding_temperature, self.classifier_temperature = embedding_temperature, classifier_temperature
        self.max_instances = max_instances

    def bind(self, spec: PyramidSpec) -> None:
        """Create the samples' classifier and the class centres, if there is that term; read ``level_weights``."""
        self.shares = level_shares(self.level_weights, spec.strides, spec.name)
        self._key = f'model.losses.{spec.name}.num_classes'
        if self.weights['classifier']:
            self.classifier = nn.Linear(sum(spec.student_channels), self.kinds)
            self.register_buffer('centers', torch.zeros(self.kinds, sum(spec.teacher_channels)))
            self.register_buffer('counts', torch.zeros(self.kinds, dtype=torch.long))

    def forward(self, student: Pyramid, teacher: Pyramid, context: DistillContext) -> dict[str, Tensor]:
        """Terms ``embedding`` and ``classifier`` of levels (N, C_l, H_l, W_l), as far as switched on.

        Raises:
            ValueError: if the batch has a label that is not below ``num_classes``.
        """
        boxes, labels = self._samples(context)
        labels = labels.to(student[0].device)
        s, t = (
            [x.flatten(1) for x in pool_instances(pyramid, context.strides, boxes, output_size=1)]
            for pyramid in (student, teacher)
        )
        terms = {}
        if self.weights['embedding']:
            terms['embedding'] = self.weights['embedding'] * self._tuples(s, t, labels)
        if self.weights['classifier']:
            local = self._local_classifier(torch.cat(s, dim=1), torch.cat(t, dim=1), labels)
            terms['classifier'] = self.weights['classifier'] * local
        return terms

    def _tuples(self, student: list[Tensor], teacher: list[Tensor], labels: Tensor) -> Tensor:
        """How embeddings (K, C_l) of every level compare inside of tuples that are semi-hard for the student."""
        s, t = (joined(levels, self.shares, self.centered) for levels in (student, teacher))
        tuples = semihard_tuples(s, labels, self.margin, self.num_negatives)
        return tuple_divergence(s, t, tuples, self.embedding_temperature)

    def _local_classifier(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """How the classifier of student embeddings (K, D) differs from the one of the class centres."""
        if self.training:
            self._follow(teacher, labels)
        here = torch.zeros_like(self.counts, dtype=torch.bool).index_fill_(0, labels, True)
        known = here & (self.counts > 0)  # in eval mode a class may have no centre yet
        logits = self.classifier(student)[:, known]
        return center_divergence(logits, teacher, self.centers[known], self.classifier_temperature)

    def _samples(self, context: DistillContext) -> tuple[list[Tensor], Tensor]:
        """Boxes of every image, in pixels, and the labels of all."""
        cells = self.samples == 'cells'
        instances = read_instances(context.data_samples, None if cells else self.max_instances)
        if len(instances.labels) and (highest := int(instances.labels.max())) >= self.num_classes:
            raise ValueError(
                f'{self._key}={self.num_classes}, but the batch has the label {highest}; accepted: '
                "the number of classes of the student's data set"
            )
        if cells:
            shapes, stride = context.image_shapes, context.strides[0]
            instances = draw_cells(instances, shapes, stride, self.max_cells, background=self.num_classes)
        return instances.boxes, instances.labels

    @torch.no_grad()
    def _follow(self, embeddings: Tensor, labels: Tensor) -> None:
        """Take (K, D) embeddings into the running class means, those of the other ranks too."""
        member = F.one_hot(labels, self.kinds)
        # One sum over the ranks, of every rank and in every pass, whatever samples it has: none may wait for another.
        both = member.to(embeddings).mT @ F.pad(embeddings, (0, 1), value=1.0)
        all_reduce(both)
        sums, counts = both[:, :-1], both[:, -1].round().long()
        self.counts += counts
        self.centers += (sums - counts.unsqueeze(1) * self.centers) / self.counts.clamp(min=1).unsqueeze(1)


def joined(levels: list[Tensor], shares: list[float], centered: bool) -> Tensor:
    """(K, ΣC_l) of length 1 from embeddings (K, C_l), whose levels have these shares of the squared length."""
    if centered:
        levels = [x - x.mean(dim=0) for x in levels]
    return torch.cat([share**0.5 * unit_length(x) for share, x in zip(shares, levels, strict=True)], dim=1)
