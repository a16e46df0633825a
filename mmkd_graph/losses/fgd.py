"""FGD: focal and global knowledge distillation (arXiv 2111.11837)."""

from __future__ import annotations

from mmcv.cnn import ContextBlock
from mmengine.model import ModuleList
from torch import Tensor

from mmkd_graph.graph import background_mask, channel_attention, foreground_mask, spatial_attention
from mmkd_graph.graph.arguments import check_number
from mmkd_graph.necks import horizontal_boxes
from mmkd_graph.registry import MODELS

from .base import DistillContext, Pyramid, PyramidLoss, PyramidSpec, term_weights, total


@MODELS.register_module()
class FGDLoss(PyramidLoss):
    """Objects and background apart, guided by the teacher's attention, and the relation between all positions.

    Focal and global distillation (FGD, arXiv 2111.11837). Each term is a sum over positions and channels, divided by
    the number of images, and a sum over levels; weights are the paper's α, β, γ, λ.

    - ``foreground``, ``background``: ``Σ M A^S A^C (T - S)²`` with the teacher's spatial and channel attention. M is
      :func:`~mmkd_graph.graph.foreground_mask` (every object weighs the same, whatever its size; the smallest of
      overlapping ones counts) or :func:`~mmkd_graph.graph.background_mask`.
    - ``attention``: L1 distance of the student's attention from the teacher's.
    - ``relation``: ``Σ (R_T(T) - R_S(S))²`` after one learned global context block each (GcBlock, arXiv 1904.11492;
      mmcv's, which has the layers and the initialisation of the authors' code).

    Differences from the authors' code (yzd-v/FGD): it stretches the boxes of an image over the padding (it divides by
    the image's own size and multiplies by the whole level's), and its first release took the mask's rows for columns
    (corrected since). The paper has boxes where the objects are, and so has this, by the level's stride. Rounding, sums
    and weights are the code's, where the paper leaves them open.

    Args:
        foreground_weight: α. All five defaults are the authors' for RetinaNet; for Faster R-CNN 5e-5.
        background_weight: β; for Faster R-CNN 2.5e-5.
        attention_weight: γ; for Faster R-CNN 5e-5. The default of the authors' class, 1e-3, is in none of their
            RetinaNet configs.
        relation_weight: λ; for Faster R-CNN 5e-7. 0 leaves the learned blocks out.
        temperature: τ of the attention softmaxes, in the unit of the features; for FCOS 0.8.

    Raises:
        ValueError: for a number outside what is accepted.

    Example:
        >>> import torch
        >>> from mmdet.structures import DetDataSample
        >>> from mmengine.structures import InstanceData
        >>> sample = DetDataSample(gt_instances=InstanceData(bboxes=torch.tensor([[0.0, 0.0, 4.0, 4.0]])))
        >>> context = DistillContext(data_samples=[sample], strides=(8,), batch_shape=(32, 32))
        >>> loss = FGDLoss()
        >>> loss.bind(PyramidSpec(strides=(8,), student_channels=(4,), teacher_channels=(4,), name='fgd'))
        >>> x = torch.rand(1, 4, 4, 4)
        >>> {term: value.item() for term, value in loss((x,), (x,), context).items()}
        {'foreground': 0.0, 'background': 0.0, 'attention': 0.0, 'relation': 0.0}
    """

    def __init__(
        self,
        foreground_weight: float = 1e-3,
        background_weight: float = 5e-4,
        attention_weight: float = 5e-4,
        relation_weight: float = 5e-6,
        temperature: float = 0.5,
    ) -> None:
        super().__init__()
        self.weights = term_weights(
            foreground=foreground_weight,
            background=background_weight,
            attention=attention_weight,
            relation=relation_weight,
        )
        check_number('temperature', temperature, positive=True)
        self.temperature = temperature

    def bind(self, spec: PyramidSpec) -> None:
        """Create the context blocks, one of each side for every level."""
        if not self.weights['relation']:
            return
        if min(spec.teacher_channels) < 2:
            raise ValueError(
                f'losses.{spec.name}.relation_weight={self.weights["relation"]} needs levels of at least 2 channels, '
                f'these have {spec.teacher_channels}; accepted: relation_weight=0, or other taps'
            )
        self.student_blocks, self.teacher_blocks = (
            ModuleList(ContextBlock(channels, ratio=0.5) for channels in spec.teacher_channels) for _ in range(2)
        )

    def forward(self, student: Pyramid, teacher: Pyramid, context: DistillContext) -> dict[str, Tensor]:
        """Terms ``foreground``, ``background``, ``attention`` and ``relation`` of levels (N, C_l, H_l, W_l).

        A term of weight 0 is left out. The ground truth boxes are those of ``context.data_samples``,
        of rotated ones the horizontal boxes around them.
        """
        levels = [self._level(*level, context) for level in zip(range(len(student)), student, teacher, strict=True)]
        return {
            term: weight * total(sums[term] for sums in levels) / len(student[0])
            for term, weight in self.weights.items()
            if weight
        }

    def _level(self, level: int, student: Tensor, teacher: Tensor, context: DistillContext) -> dict[str, Tensor]:
        """Sums over images, positions and channels."""
        sums = {}
        attention_t = attention(teacher, self.temperature)
        if self.weights['foreground'] or self.weights['background']:
            boxes = [horizontal_boxes(sample.gt_instances.bboxes).to(student.device) for sample in context.data_samples]
            foreground = foreground_mask(boxes, student.shape[-2:], context.strides[level])
            squares = focal_squares(student, teacher, attention_t)
            sums['foreground'] = (squares * foreground).sum()
            sums['background'] = (squares * background_mask(foreground)).sum()
        if self.weights['attention']:
            attention_s = attention(student, self.temperature)
            sums['attention'] = total((s - t).abs().sum() for s, t in zip(attention_s, attention_t, strict=True))
        if self.weights['relation']:
            # Levels may be cropped; the block takes views.
            student, teacher = student.contiguous(), teacher.contiguous()
            difference = self.student_blocks[level](student) - self.teacher_blocks[level](teacher)
            sums['relation'] = difference.square().sum()
        return sums


def attention(level: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Spatial (N, 1, H, W) and channel attention (N, C, 1, 1) of a level (N, C, H, W)."""
    return spatial_attention(level, temperature), channel_attention(level, temperature)


def focal_squares(student: Tensor, teacher: Tensor, attention: tuple[Tensor, Tensor]) -> Tensor:
    """(N, 1, H, W) squared differences of levels (N, C, H, W), weighted by attention, summed over channels."""
    spatial, channel = attention
    return ((student - teacher).square() * channel).sum(1, keepdim=True) * spatial
