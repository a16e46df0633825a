"""MHGD: graphs between samples, made by the attention of a network that learns the teacher (arXiv 1907.02226)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_graph.graph import align_vectors, attend, attention_graphs, graph_divergence, leading_vectors, unit_length
from mmkd_graph.graph.arguments import check_choice, check_integer, check_number
from mmkd_graph.necks import draw_cells, pool_instances, read_instances
from mmkd_graph.registry import MODELS

from .base import DistillContext, LevelWeights, Pyramid, PyramidLoss, PyramidSpec, attached_zero, level_shares, total


@MODELS.register_module()
class MHGDLoss(PyramidLoss):
    """How the samples of a batch move from one level to the next, as graphs of multi-head attention.

    A sample is a cell of the finest level with what every level has there, its features at length 1; or a
    ground-truth instance or an image, pooled from every level and compressed to its leading right singular vector:
    the teacher's first, and of the student's first four the one nearest to it, with its sign. (A singular vector has
    no sign of its own; a cell's features have one.) Between two consecutive levels an attention network, key = next
    level, query = previous level, gives one graph G of all samples per head.

    - Term ``estimator`` trains that network on the teacher alone: from the previous level's vectors and the graphs it
      predicts the next level's, 1 - cos, with half of the heads dropped at random. It trains nothing else and is
      not multiplied by the loss's weight (``own_terms``).
    - Term ``graph`` reads the student with the same network, its weights and statistics frozen: ``KL(softmax(tanh G_S)
      ‖ softmax(tanh G_T))``, the mean over heads and samples. Its gradient goes into the student's features alone.

    What it cannot see: a graph is a product of two levels, so a student whose features on both are the teacher's with
    the other sign differs by their mean alone. Where cells lie does not count either, only how they compare.

    Term ``estimator`` is summed over the pairs of levels, ``graph`` is their mean by ``level_weights``. The vectors
    come from an eigenvalue problem without gradient and have the damped gradient of first-order perturbation
    (:func:`mmkd_graph.graph.leading_vectors`), not the paper's of an SVD.

    The published reading is ``samples='instances', scaled=False, level_weights='equal'``.

    Args:
        graph_weight: weight of the term ``graph``; as in the authors' code.
        estimator_weight: weight of the term ``estimator``, > 0; as in the authors' code.
        num_heads: attention heads, >= 2; the paper's 8. Half of them are dropped in training.
        scaled: divide the graphs by the square root of a head's channels (arXiv 1706.03762). Without, as in the paper,
            most of their entries are where tanh is flat and has no gradient.
        level_weights: of the pairs of levels, each by its finer level: ``'area'`` (every cell has the same weight),
            ``'equal'`` (every pair, as in the paper), or one number per pair, finest first.
        samples: ``'cells'`` of the finest level, at most half of them inside ground-truth boxes
            (:func:`~mmkd_graph.necks.draw_cells`); ``'instances'``, those boxes; or whole ``'images'``, as in the
            paper.
        max_cells: number of cells, of a rank's batch, redrawn in every pass by torch's global generator.
        pool_size: side of the pooled maps of instances and images, in cells. Up to 5, the eigenvalue problems are
            batched on CUDA.
        student_vectors: candidates for the student's vector of an instance or image; as in the authors' code.
        max_instances: maximum number per image, the largest first; ``None``: all.

    Raises:
        ValueError: for a choice or number outside what is accepted; names the key.

    Source: *Graph-based Knowledge Distillation by Multi-head Attention Network*, BMVC 2019, arXiv 1907.02226.

    Example:
        >>> from mmdet.structures import DetDataSample
        >>> from mmengine.structures import InstanceData
        >>> sample = DetDataSample()
        >>> boxes = torch.tensor([[0.0, 0.0, 32.0, 32.0], [16.0, 16.0, 60.0, 60.0]])
        >>> sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 2]))
        >>> context = DistillContext(data_samples=[sample], strides=(8, 16), batch_shape=(64, 64))
        >>> loss = MHGDLoss()
        >>> loss.bind(PyramidSpec(strides=(8, 16), student_channels=(4, 4), teacher_channels=(4, 4), name='mhgd'))
        >>> pyramid = (torch.rand(1, 4, 8, 8), torch.rand(1, 4, 4, 4))
        >>> sorted(loss(pyramid, pyramid, context))
        ['estimator', 'graph']
    """

    own_terms = ('estimator',)

    def __init__(
        self,
        graph_weight: float = 1.0,
        estimator_weight: float = 1.0,
        num_heads: int = 8,
        scaled: bool = True,
        level_weights: LevelWeights = 'area',
        samples: str = 'cells',
        max_cells: int = 128,
        pool_size: int = 5,
        student_vectors: int = 4,
        max_instances: int | None = 100,
    ) -> None:
        super().__init__()
        check_number('graph_weight', graph_weight, positive=True)
        check_number('estimator_weight', estimator_weight, positive=True)
        check_integer('num_heads', num_heads, 2)
        check_integer('max_cells', max_cells, 2)
        check_integer('pool_size', pool_size, 1)
        check_integer('student_vectors', student_vectors, 1)
        check_choice('samples', samples, ('cells', 'instances', 'images'))
        self.graph_weight, self.estimator_weight, self.num_heads = graph_weight, estimator_weight, num_heads
        self.scaled, self.level_weights = scaled, level_weights
        self.samples, self.max_cells, self.student_vectors = samples, max_cells, student_vectors
        check_integer('max_instances', max_instances, 1, optional=True)
        self.max_instances, self.pool_size = max_instances, 1 if samples == 'cells' else pool_size
        self.register_buffer('steps', torch.zeros((), dtype=torch.long))  # the seed of the dropped heads

    def bind(self, spec: PyramidSpec) -> None:
        """Create one attention network for each pair of consecutive levels; read ``level_weights``."""
        if len(spec.strides) < 2:
            raise ValueError(
                f'losses.{spec.name}: graphs are between consecutive levels, but the strides {spec.strides} alone are '
                'paired; accepted: two paired levels or more'
            )
        if spec.student_channels != spec.teacher_channels:
            raise ValueError(
                f'losses.{spec.name}: the network of the teacher reads the student, but their channels are '
                f'{spec.teacher_channels} and {spec.student_channels}; accepted: equal ones'
            )
        self.shares = level_shares(self.level_weights, spec.strides[:-1], spec.name)
        pairs = zip(spec.teacher_channels[:-1], spec.teacher_channels[1:], strict=True)
        self.networks = nn.ModuleList(
            AttentionNetwork(before, after, self.num_heads, self.scaled) for before, after in pairs
        )

    def forward(self, student: Pyramid, teacher: Pyramid, context: DistillContext) -> dict[str, Tensor]:
        """Terms ``graph`` and ``estimator`` of levels (N, C_l, H_l, W_l)."""
        s, t = self._vectors(student, teacher, context)
        kept = self._kept_heads()
        if len(t[0]) < 2:
            graph, estimator = attached_zero(s), attached_zero(self.networks.parameters())
        else:
            graphs, estimators = [], []
            for i, share in enumerate(self.shares):
                network = cast(AttentionNetwork, self.networks[i])
                estimators.append(network.estimator_loss(t[i], t[i + 1], kept[i]))
                # Frozen, with the statistics that the teacher has just moved.
                found, wanted = (network.graphs(x[i], x[i + 1], frozen=True) for x in (s, t))
                graphs.append(share * graph_divergence(found, wanted).mean())
            graph, estimator = total(graphs), total(estimators)
        return dict(graph=self.graph_weight * graph, estimator=self.estimator_weight * estimator)

    def _vectors(
        self, student: Pyramid, teacher: Pyramid, context: DistillContext
    ) -> tuple[list[Tensor], list[Tensor]]:
        """(K, C_l) vectors of length 1 of every level: the student's, with gradient, and the teacher's."""
        boxes = self._boxes(context)
        s, t = (pool_instances(pyramid, context.strides, boxes, self.pool_size) for pyramid in (student, teacher))
        if self.samples == 'cells':
            return [unit_length(x.flatten(1)) for x in s], [unit_length(x.flatten(1)) for x in t]
        t = [leading_vectors(x).squeeze(1) for x in t]
        return [align_vectors(leading_vectors(x, self.student_vectors), y) for x, y in zip(s, t, strict=True)], t

    def _boxes(self, context: DistillContext) -> list[Tensor]:
        if self.samples == 'cells':
            truth, stride = read_instances(context.data_samples), context.strides[0]
            return draw_cells(truth, context.image_shapes, stride, self.max_cells, background=-1).boxes
        if self.samples == 'instances':
            return read_instances(context.data_samples, self.max_instances).boxes
        return context.image_boxes

    def _kept_heads(self) -> Tensor:
        """(pairs, heads) booleans; in training half of the heads of each pair, drawn by the number of the step."""
        pairs = len(self.networks)
        if not self.training:
            return torch.ones(pairs, self.num_heads, dtype=torch.bool, device=self.steps.device)
        generator = torch.Generator().manual_seed(int(self.steps))
        self.steps += 1
        ranks = torch.rand(pairs, self.num_heads, generator=generator).argsort(dim=1)
        return (ranks < self.num_heads // 2).to(self.steps.device)


class AttentionNetwork(nn.Module):
    """Attention from the vectors of one level to those of the next, and the estimator that trains it.

    Args:
        before: channels of the previous level.
        after: channels of the next level.
        heads: number of attention heads; each has (before + after) // 2 channels.
        scaled: divide the graphs by the square root of that number.
    """

    def __init__(self, before: int, after: int, heads: int, scaled: bool) -> None:
        super().__init__()
        width, self.heads, self.scaled = (before + after) // 2, heads, scaled
        self.key = nn.Linear(after, heads * width, bias=False)
        self.key_norm = SampleNorm(heads * width)
        self.query = nn.Linear(before, heads * width, bias=False)
        self.query_norm = SampleNorm(heads * width)
        self.value = nn.Linear(before, width, bias=False)
        self.value_norm = SampleNorm(width)
        self.output = nn.Linear(heads * width, after)

    def graphs(self, before: Tensor, after: Tensor, frozen: bool = False) -> Tensor:
        """(heads, K, K) of (K, before) and (K, after) vectors; ``frozen`` leaves weights and statistics alone."""
        keys, queries = (
            norm(F.linear(x, linear.weight.detach() if frozen else linear.weight), frozen)
            for x, linear, norm in ((after, self.key, self.key_norm), (before, self.query, self.query_norm))
        )
        return attention_graphs(keys, queries, self.heads, self.scaled)

    def estimator_loss(self, before: Tensor, after: Tensor, kept: Tensor) -> Tensor:
        """Mean of 1 - cos between ``after`` and what is predicted of it from ``before``; scalar."""
        values = self.value_norm(self.value(before)).relu()
        predicted = self.output(attend(self.graphs(before, after), values, kept))
        return (1 - F.cosine_similarity(predicted, after, dim=1)).mean()


class SampleNorm(nn.Module):
    """Batch normalisation of (K, channels) over the samples.

    Not an ``nn.BatchNorm1d``: ``sync_bn`` would make that one wait for the other ranks, which may have no samples.

    Args:
        channels: number of channels.
        momentum: of the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer('running_mean', torch.zeros(channels))
        self.register_buffer('running_var', torch.ones(channels))

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Normalise by the batch in training, by the running statistics otherwise and where ``frozen``."""
        mean, var = self.running_mean, self.running_var
        if frozen:
            return F.batch_norm(x, mean, var, self.weight.detach(), self.bias.detach())
        return F.batch_norm(x, mean, var, self.weight, self.bias, self.training, self.momentum)
