"""LFCC: low-frequency contrastive distillation across architectures (arXiv 2405.18524)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmkd_graph.graph import info_nce
from mmkd_graph.graph.arguments import check_integer, check_number
from mmkd_graph.necks import InstancePooling, LowPassPyramid
from mmkd_graph.necks.lowpass_pyramid import unit_samples
from mmkd_graph.registry import MODELS

from .gathering import check_samples, gather_samples
from .interface import DistillContext, LevelWeights, Pyramid, PyramidLoss, PyramidSpec, level_shares

Pair = tuple[Tensor, Tensor]

SAMPLES = ('cells', 'instances', 'images')


@MODELS.register_module()
class LFCCLoss(PyramidLoss):
    r"""The student must find each sample among the teacher's, by the low frequencies of its features.

    For student and teacher, every level is filtered at several scales, projected to a compact space and normalised
    (:class:`~mmkd_graph.necks.LowPassPyramid`): as a whole, and every cell of the result is a sample; or cut into
    instances or images first (RoIAlign, ``output_size`` cells a side). Per level and scale
    :math:`-\frac1K \sum_i \log \mathrm{softmax}_j(\langle s_i, t_j\rangle / \tau)_{j=i}`: the positive is the
    teacher's view of the same sample, the negatives are its views of the others. Term ``contrast`` is the mean over
    scales and levels. All of it runs in float32 under autocast. One sample (on all ranks together, with ``gather``)
    has nothing to be told from: exactly 0, attached.

    The teacher's features take no gradient; its projection (and its filters, if learned) are parameters of this loss.
    Both sides have their own projection, so student and teacher may have different widths (``adapter='never'``).
    With ``teacher_projection='learned'`` embeddings that collapse are no solution (:func:`~mmkd_graph.graph.info_nce`),
    but the teacher's samples may move to where they are easily told apart and easily matched, and then little is asked
    of the student; ``'fixed'`` keeps the teacher's geometry as it is (an orthogonal projection).

    Args:
        embed_channels: channels of the compact space; 128 as in CRD (arXiv 1910.10699).
        temperature: :math:`\tau`; 0.07 as in CRD.
        scales: sides of the low-pass windows, in cells; of pooled samples at most ``output_size``.
        samples: ``'cells'`` that are not padding, after the filters; ``'instances'``, the ground-truth boxes; or
            ``'images'`` without their padding.
        max_cells: draw at most so many cells per level and scale from the rank's batch, anew in every pass, by
            torch's global generator.
        output_size: cells per side of a pooled instance or image; 8 is what the default scales need.
        max_instances: keep at most so many instances per image, the largest; ``None`` keeps all.
        student_filters: ``'learned'`` or ``'average'``, see :class:`~mmkd_graph.necks.LowPassPyramid`.
        teacher_filters: the same on the teacher's side; ``'average'`` leaves its low frequencies as they are.
        teacher_projection: ``'fixed'`` or ``'learned'``.
        gather: contrast with the instances or images of all ranks; value and gradient are those of one rank with all
            of them. Not with ``'cells'``, of which a rank has enough.
        level_weights: ``'alike'``, ``'cells'``, or one number per paired level, finest first: see
            :func:`~mmkd_graph.losses.interface.level_shares`. The loss is a weighted mean over the levels.

    Raises:
        ValueError: for a choice or number outside what is accepted; names the key.

    Source: arXiv 2405.18524 (the idea; its defaults are not known to us, see ``docs/lfcc.md``).

    Example:
        >>> import torch
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
        student_filters: str = 'learned',
        teacher_filters: str = 'average',
        teacher_projection: str = 'fixed',
        gather: bool = False,
        level_weights: LevelWeights = 'alike',
    ) -> None:
        super().__init__()
        check_number('temperature', temperature, positive=True)
        check_samples(samples, SAMPLES, gather)
        self.pooling = InstancePooling(output_size, max_instances)
        sides = dict(
            student=dict(filters=student_filters), teacher=dict(filters=teacher_filters, projection=teacher_projection)
        )
        self._sides: dict[str, dict[str, Any]] = {
            side: dict(embed_channels=embed_channels, scales=scales, **options) for side, options in sides.items()
        }
        for side, options in self._sides.items():
            try:  # one without levels, for its checks: the levels are known in bind()
                LowPassPyramid([], **options)
            except ValueError as error:
                prefix = f'{side}_' if str(error).startswith(('filters', 'projection')) else ''
                raise ValueError(f'{prefix}{error}') from error
        if samples == 'cells':
            check_integer('max_cells', max_cells, 2)
        elif max(scales) > output_size:
            raise ValueError(f'scales={tuple(scales)}; accepted: at most the output_size, {output_size}')
        self.temperature, self.samples, self.gather = temperature, samples, gather
        self.level_weights, self.max_cells = level_weights, max_cells

    def bind(self, spec: PyramidSpec) -> None:
        """Create filters and projections for the pyramids' channels; check ``level_weights``."""
        level_shares(self.level_weights, spec.strides, f'losses.{spec.name}.level_weights')
        self.student = LowPassPyramid(spec.student_channels, **self._sides['student'])
        self.teacher = LowPassPyramid(spec.teacher_channels, **self._sides['teacher'])

    def forward(self, student: Pyramid, teacher: Pyramid, context: DistillContext) -> dict[str, Tensor]:
        """Term ``contrast`` of levels (N, C_l, H_l, W_l); student and teacher may have different channels."""
        shares = level_shares(self.level_weights, context.strides)
        with torch.autocast(student[0].device.type, enabled=False):
            pairs = (self._cells if self.samples == 'cells' else self._pooled)(
                student, [level.detach() for level in teacher], context
            )
            values = [info_nce(s, t, self.temperature) for s, t in pairs]
            levels = torch.stack(values).view(len(student), -1).mean(dim=1)
            value = (levels * levels.new_tensor(shares)).sum()
        return dict(contrast=value)

    def _pooled(self, student: Pyramid, teacher: Sequence[Tensor], context: DistillContext) -> list[Pair]:
        boxes = self._boxes(student[0], context)
        sides = (self.student, student), (self.teacher, teacher)
        embedded = [neck(self.pooling(levels, context.strides, boxes)) for neck, levels in sides]
        # One row per sample with everything in it, so that gathering is one message.
        parts = [scale.flatten(1) for side in embedded for level in side for scale in level]
        rows = torch.cat(parts, dim=1)
        if self.gather:
            rows = gather_samples(rows)
        parts = rows.split([part.shape[1] for part in parts], dim=1)
        half = len(parts) // 2
        return list(zip(parts[:half], parts[half:], strict=True))

    def _cells(self, student: Pyramid, teacher: Sequence[Tensor], context: DistillContext) -> list[Pair]:
        ends = torch.tensor(context.image_shapes)
        pairs = []
        sides = self.student.project(student), self.teacher.project(teacher)
        for stride, maps_s, maps_t in zip(context.strides, *sides, strict=True):
            for scale, s, t in zip(self.student.scales, maps_s, maps_t, strict=True):
                # on the CPU, where the image sizes are: nothing waits for the device
                rows, columns = (torch.arange(size) * stride * scale for size in s.shape[-2:])
                inside = (rows < ends[:, :1])[:, :, None] & (columns < ends[:, 1:])[:, None]
                chosen = inside.flatten().nonzero().squeeze(1)
                if len(chosen) > self.max_cells:
                    chosen = chosen[torch.randperm(len(chosen))[: self.max_cells]]
                chosen = chosen.to(s.device, non_blocking=True)
                pairs.append(tuple(unit_samples(x.movedim(1, -1).flatten(0, 2)[chosen]) for x in (s, t)))
        return pairs

    def _boxes(self, level: Tensor, context: DistillContext) -> list[Tensor]:
        if self.samples == 'instances':
            return self.pooling.read(context.data_samples).boxes
        return [level.new_tensor([[0, 0, w, h]], dtype=torch.float32) for h, w in context.image_shapes]
