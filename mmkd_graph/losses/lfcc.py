"""LFCC: low-frequency contrastive distillation across architectures (arXiv 2405.18524)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_graph.graph import info_nce, low_pass, unit_length
from mmkd_graph.graph.arguments import argument_error, check_choice, check_integer, check_number
from mmkd_graph.necks import pool_instances, read_instances
from mmkd_graph.registry import MODELS

from .base import DistillContext, LevelWeights, Pyramid, PyramidLoss, PyramidSpec, level_shares, total


@MODELS.register_module()
class LFCCLoss(PyramidLoss):
    """The student must find each sample among the teacher's, by the low frequencies of its features.

    For student and teacher, every level is averaged at several scales, projected to a compact space and normalised: as
    a whole, and every cell of the result is a sample; or cut into instances or images first (RoIAlign, ``output_size``
    cells a side), which have norm 1 over channels and cells together. Per level and scale ``-1/K Σ_i log
    softmax_j(⟨s_i, t_j⟩ / τ)`` at ``j = i``: the positive is the teacher's view of the same sample, the negatives are
    its views of the others. Term ``contrast`` is the mean over scales and levels. A rank compares its own samples; a
    single one gives exactly 0, attached.

    The teacher's features take no gradient; its projection is a parameter of this loss. Both sides have their own
    projection, so student and teacher may have different widths (``adapter='never'``): a 1×1 convolution per level,
    without bias, since all samples would share it, and orthogonal at the start, which keeps the geometry. With
    ``teacher_projection='learned'`` collapsed embeddings are no solution (:func:`~mmkd_graph.graph.info_nce`), but the
    teacher's samples may move to where they are easily matched, and then little is asked of the student; ``'fixed'``
    keeps the teacher's geometry (an orthogonal projection).

    Args:
        embed_channels: channels of the compact space; as in CRD (arXiv 1910.10699).
        temperature: τ; as in CRD.
        scales: sides of the averages' windows, in cells; for instances and images at most ``output_size``.
        samples: ``'cells'`` that are not padding, after the averages; ``'instances'``, the ground-truth boxes; or
            ``'images'`` without their padding.
        max_cells: maximum number of cells per level and scale, of a rank's batch, redrawn in every pass by torch's
            global generator.
        output_size: cells per side of an instance or image; 8 is what the default scales need.
        max_instances: maximum number per image, the largest first; ``None``: all.
        teacher_projection: ``'fixed'``, as initialised, or ``'learned'``.
        level_weights: ``'equal'`` (every level has the same weight), ``'area'`` (every cell), or one number per paired
            level, finest first.

    Raises:
        ValueError: for a choice or number outside what is accepted; names the key.

    Source: arXiv 2405.18524 (the idea; its defaults are not known to us, see ``docs/lfcc.md``).

    Example:
        >>> from mmdet.structures import DetDataSample
        >>> loss = LFCCLoss(samples='images')
        >>> loss.bind(PyramidSpec((8,), student_channels=(16,), teacher_channels=(24,), name='lfcc'))
        >>> student, teacher = torch.rand(1, 16, 8, 8), torch.rand(1, 24, 8, 8)
        >>> samples = [DetDataSample(metainfo=dict(img_shape=(64, 64)))]
        >>> loss((student,), (teacher,), DistillContext(samples, (8,), (64, 64)))['contrast'].item()  # one image
        0.0
    """

    any_width = True

    def __init__(
        self,
        embed_channels: int = 128,
        temperature: float = 0.07,
        scales: Sequence[int] = (1, 2, 4, 8),
        samples: str = 'cells',
        max_cells: int = 512,
        output_size: int = 8,
        max_instances: int | None = None,
        teacher_projection: str = 'fixed',
        level_weights: LevelWeights = 'equal',
    ) -> None:
        super().__init__()
        check_number('temperature', temperature, positive=True)
        check_choice('samples', samples, ('cells', 'instances', 'images'))
        check_integer('max_cells', max_cells, 2)
        check_choice('teacher_projection', teacher_projection, ('fixed', 'learned'))
        check_integer('embed_channels', embed_channels, 1)
        check_scales(scales)
        check_integer('output_size', output_size, 1)
        check_integer('max_instances', max_instances, 1, optional=True)
        if samples != 'cells' and max(scales) > output_size:
            raise argument_error('scales', tuple(scales), f'at most the output_size, {output_size}')
        self.embed_channels, self.temperature, self.scales = embed_channels, temperature, tuple(scales)
        self.samples, self.max_cells, self.output_size = samples, max_cells, output_size
        self.max_instances = max_instances
        self.teacher_projection, self.level_weights = teacher_projection, level_weights

    def bind(self, spec: PyramidSpec) -> None:
        """Create the projections for the pyramids' channels; read ``level_weights``."""
        self.shares = level_shares(self.level_weights, spec.strides, spec.name)
        self.student = CompactSpace(spec.student_channels, self.embed_channels, self.scales)
        self.teacher = CompactSpace(spec.teacher_channels, self.embed_channels, self.scales)
        self.teacher.requires_grad_(self.teacher_projection == 'learned')

    def forward(self, student: Pyramid, teacher: Pyramid, context: DistillContext) -> dict[str, Tensor]:
        """Term ``contrast`` of levels (N, C_l, H_l, W_l); student and teacher may have different channels."""
        embedded = self._cells if self.samples == 'cells' else self._pooled
        values = torch.stack([info_nce(s, t, self.temperature) for s, t in embedded(student, teacher, context)])
        levels = values.view(len(student), -1).mean(dim=1)
        return dict(contrast=total(share * level for share, level in zip(self.shares, levels, strict=True)))

    def _pooled(self, student: Pyramid, teacher: Pyramid, context: DistillContext) -> list[tuple[Tensor, Tensor]]:
        """Both sides' (K, D) embedded instances or images, per level and scale."""
        if self.samples == 'instances':
            boxes = read_instances(context.data_samples, self.max_instances).boxes
        else:
            boxes = context.image_boxes
        s, t = (
            space(pool_instances(pyramid, context.strides, boxes, self.output_size))
            for pyramid, space in ((student, self.student), (teacher, self.teacher))
        )
        return [(unit_length(x.flatten(1)), unit_length(y.flatten(1))) for x, y in zip(s, t, strict=True)]

    def _cells(self, student: Pyramid, teacher: Pyramid, context: DistillContext) -> list[tuple[Tensor, Tensor]]:
        """Both sides' (K, D) embedded cells, per level and scale."""
        averages = self.student.averages(student)
        windows = [stride * scale for stride in context.strides for scale in self.scales]
        chosen = []
        for window, maps in zip(windows, averages, strict=True):
            cells = context.inside(maps, window).flatten().nonzero().squeeze(1)
            if len(cells) > self.max_cells:
                cells = cells[torch.randperm(len(cells))[: self.max_cells]]
            chosen.append(cells)
        counts = [len(cells) for cells in chosen]
        chosen = [cells.to(student[0].device, non_blocking=True) for cells in chosen]
        rows_s, rows_t = (
            unit_length(space.cells(maps, chosen)).split(counts)
            for space, maps in ((self.student, averages), (self.teacher, self.teacher.averages(teacher)))
        )
        return [*zip(rows_s, rows_t, strict=True)]


class CompactSpace(nn.Module):
    """Low frequencies of every level in a few channels: averages at several scales, and a projection per level.

    Args:
        widths: channels of every level.
        channels: of the compact space.
        scales: sides of the averages' windows.
    """

    def __init__(self, widths: Sequence[int], channels: int, scales: Sequence[int]) -> None:
        super().__init__()
        self.scales = scales
        projections = [nn.Conv2d(width, channels, 1, bias=False) for width in widths]
        for convolution in projections:
            nn.init.orthogonal_(convolution.weight)
        self.projections = nn.ModuleList(projections)

    def averages(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """Levels (N, C_l, H_l, W_l) to maps (N, C_l, ⌈H_l / s⌉, ⌈W_l / s⌉) of every level and scale s."""
        return [low_pass(level, scale) for level in pyramid for scale in self.scales]

    def forward(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """Levels to their :meth:`averages` in the compact space, (N, channels, ⌈H_l / s⌉, ⌈W_l / s⌉)."""
        return [self._projection(i)(maps) for i, maps in enumerate(self.averages(pyramid))]

    def cells(self, averages: Sequence[Tensor], chosen: Sequence[Tensor]) -> Tensor:
        """Some cells of the :meth:`averages`, in the compact space: (sum of K, channels).

        A level is projected once for all scales, and no cell that was not chosen.

        Args:
            averages: (N, C_l, H, W) of every level and scale.
            chosen: of each of them (K,) indices into its N × H × W cells.
        """
        rows = [
            maps.movedim(1, -1).flatten(0, 2).index_select(0, cells)
            for maps, cells in zip(averages, chosen, strict=True)
        ]
        count = len(self.scales)
        return torch.cat(
            [
                F.linear(torch.cat(rows[i : i + count]), self._projection(i).weight.flatten(1))
                for i in range(0, len(rows), count)
            ]
        )

    def _projection(self, index: int) -> Any:
        """That of one of the :meth:`averages`."""
        return self.projections[index // len(self.scales)]


def check_scales(scales: Sequence[int]) -> None:
    """Raise ``ValueError`` unless ``scales`` are distinct integers >= 1."""
    if not isinstance(scales, Sequence) or isinstance(scales, str) or not scales:
        raise argument_error('scales', repr(scales), 'a list of at least one integer >= 1')
    for scale in scales:
        check_integer('scales', scale, 1)
    if len({*scales}) < len(scales):
        raise argument_error('scales', repr(scales), 'every scale once')
