"""What every distillation loss receives and returns, and what all of them need."""

from __future__ import annotations

import functools
import operator
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from mmengine.model import BaseModule
from torch import Tensor

from mmkd_graph.graph.arguments import check_number
from mmkd_graph.graph.precision import wide_type

Pyramid = tuple[Tensor, ...]


@dataclass(frozen=True)
class PyramidSpec:
    """What is known about the paired pyramids when the model is built.

    Attributes:
        strides: stride of every paired level, in input pixels per cell.
        student_channels: channels of every student level *after* its adapter.
        teacher_channels: channels of every teacher level.
        name: the loss's key under ``losses``, for error messages.
    """

    strides: tuple[int, ...]
    student_channels: tuple[int, ...]
    teacher_channels: tuple[int, ...]
    name: str


@dataclass(frozen=True)
class HeadSpec:
    """What is known about two dense heads when the model is built.

    Attributes:
        strides: stride of every level of the heads, in input pixels per cell.
        num_classes: of the student's head, without background.
        sigmoid: whether each class has a probability of its own. If not, the scores' softmax has one class more, the
            last one: the background.
        bins: values of a box edge of which the head that predicts the boxes gives a distribution; ``None``: it gives
            the edge itself.
        name: the loss's key under ``losses``, for error messages.
    """

    strides: tuple[int, ...]
    num_classes: int
    sigmoid: bool
    bins: int | None
    name: str

    @property
    def outputs(self) -> int:
        """Scores of one place: K."""
        return self.num_classes + (not self.sigmoid)


@dataclass(frozen=True)
class HeadOutputs:
    """What a dense head predicts of one batch, level by level.

    Attributes:
        scores: logits (N, A * K, H, W) of K classes (and the background, with softmax) of A anchors per cell; those of
            one anchor are neighbours.
        boxes: logits (N, A * 4 * n, H, W) of distributions of the four edges over n values, or corners
            (N, A * 4, H, W), x1, y1, x2, y2 in input pixels, where heads predict no distributions (``HeadSpec.bins``).
            For losses that read them.
        positives: (N, A, H, W) booleans: which anchors the student's assigner gave an object. For losses that read
            them.
    """

    scores: Pyramid
    boxes: Pyramid = ()
    positives: Pyramid = ()

    def mapped(self, function: Callable[[Tensor], Tensor]) -> HeadOutputs:
        """With all scores and boxes mapped."""
        return HeadOutputs(tuple(map(function, self.scores)), tuple(map(function, self.boxes)), self.positives)


@dataclass(frozen=True)
class DistillContext:
    """What a loss may know about the batch beside the two pyramids.

    Attributes:
        data_samples: the batch's ``DetDataSample`` list (ground truth, image shapes).
        strides: stride of every level, in input pixels per cell.
        batch_shape: (H, W) of the padded batch in pixels.
    """

    data_samples: Sequence
    strides: tuple[int, ...]
    batch_shape: tuple[int, int]

    @property
    def image_shapes(self) -> list[tuple[int, int]]:
        """(H, W) of every image in pixels without its padding; the batch's where a sample does not say."""
        return [tuple(sample.metainfo.get('img_shape', self.batch_shape)[:2]) for sample in self.data_samples]

    @property
    def image_boxes(self) -> list[Tensor]:
        """A (1, 4) box around every image without its padding: x1, y1, x2, y2 in pixels."""
        return [torch.tensor([[0.0, 0.0, width, height]]) for height, width in self.image_shapes]

    def inside(self, level: Tensor, stride: int) -> Tensor:
        """Which cells of a level (N, C, H, W) begin inside of their image: (N, 1, H, W) booleans on the CPU.

        The image sizes are there, so nothing waits for the device. Without data samples all cells do.
        """
        if not len(self.data_samples):
            return torch.ones(len(level), 1, *level.shape[-2:], dtype=torch.bool)
        ends = torch.tensor(self.image_shapes)
        rows, columns = (torch.arange(size) * stride for size in level.shape[-2:])
        return ((rows < ends[:, :1])[:, :, None] & (columns < ends[:, 1:])[:, None]).unsqueeze(1)

    def valid_cells(self, level: Tensor, stride: int) -> Tensor:
        """:meth:`inside` on the level's device."""
        return self.inside(level, stride).to(level.device, non_blocking=True)


def places(levels: Pyramid, channels: int, context: DistillContext) -> Tensor:
    """The predictions of all anchors of all cells that are no padding, one in a row.

    Args:
        levels: (N, A * ``channels``, H, W), finest first.
        channels: of one anchor.
        context: of the batch.

    Returns:
        (P, ``channels``); the order is that of levels, images, anchors, cells.

    Example:
        >>> context = DistillContext(data_samples=(), strides=(8,), batch_shape=(8, 16))
        >>> places((torch.arange(4.0).view(1, 2, 1, 2),), 2, context)
        tensor([[0., 2.],
                [1., 3.]])
    """
    rows = []
    for level, stride in zip(levels, context.strides, strict=True):
        anchors = level.unflatten(1, (-1, channels)).movedim(2, -1)
        chosen = context.inside(level, stride).expand(anchors.shape[:-1]).flatten().nonzero().squeeze(1)
        rows.append(anchors.flatten(0, 3)[chosen.to(level.device, non_blocking=True)])
    return torch.cat(rows)


LevelWeights = Literal['equal', 'area'] | Sequence[float]


def level_shares(weights: LevelWeights, strides: Sequence[int], name: str) -> list[float]:
    """The share of a loss that each level has, for a loss's ``bind``.

    Args:
        weights: ``'equal'``, every level the same; ``'area'``, every cell the same, so that a level has 1 / stride² of
            the weight; or one number >= 0 per level, finest first.
        strides: of the levels, in input pixels per cell.
        name: the loss's key under ``losses``, for the error message.

    Returns:
        Shares that add up to 1.

    Raises:
        ValueError: for anything else; names the key.

    Example:
        >>> level_shares('area', (8, 16), 'crg')
        [0.8, 0.2]
    """
    key = f'losses.{name}.level_weights'
    if weights == 'equal':
        given = [1.0] * len(strides)
    elif weights == 'area':
        given = [1 / stride**2 for stride in strides]
    elif isinstance(weights, str) or not isinstance(weights, Sequence):
        raise ValueError(f"{key}={weights!r}; accepted: 'equal', 'area', or one number per level")
    else:
        given = [*weights]
        for number in given:
            check_number(key, number)
        if len(given) != len(strides) or sum(given) <= 0:
            raise ValueError(
                f'{key}={weights}; accepted: one number per paired level, {len(strides)} of them for the strides '
                f'{tuple(strides)}, not all 0'
            )
    return [weight / sum(given) for weight in given]


def term_weights(**weights: float) -> dict[str, float]:
    """The weights of a loss's terms, checked: numbers >= 0, not all 0.

    Args:
        **weights: weight by term; the option is ``<term>_weight``.

    Raises:
        ValueError: for anything else; names the option.

    Example:
        >>> term_weights(vertex=1.0, edge=-1)
        Traceback (most recent call last):
        ...
        ValueError: edge_weight: got -1, accepted is a finite number >= 0
    """
    for term, weight in weights.items():
        check_number(f'{term}_weight', weight)
    if not any(weights.values()):
        names = ', '.join(f'{term}_weight' for term in weights)
        raise ValueError(f'{names} are all 0; accepted: at least one > 0 (loss_weight=0 switches the whole loss off)')
    return weights


def total(values: Iterable[Tensor]) -> Tensor:
    """The sum of at least one tensor. (``sum`` would begin with the integer 0.)

    Example:
        >>> total([torch.ones(2), torch.ones(2)])
        tensor([2., 2.])
    """
    return functools.reduce(operator.add, values)


def attached_zero(tensors: Iterable[Tensor]) -> Tensor:
    """An exact 0 that gives every tensor a gradient of zeros, whatever its values: DDP waits for each parameter.

    Example:
        >>> attached_zero([torch.tensor([torch.nan], requires_grad=True)])
        tensor(0., grad_fn=<SumBackward0>)
    """
    return torch.cat([x.flatten()[:0] for x in tensors]).sum()


def check_terms(terms: Any, name: str) -> dict[str, Tensor]:
    """What a loss returned, if it is a dict of named scalars. Looks at types and shapes alone: no device is waited for.

    Args:
        terms: what its ``forward`` returned.
        name: the loss's key under ``losses``, for the error message.

    Raises:
        TypeError: if it is anything else; names the loss and the term.

    Example:
        >>> check_terms(torch.zeros(2), 'my')
        Traceback (most recent call last):
        ...
        TypeError: model.losses.my: forward returned a tensor of shape (2,); accepted: named scalar tensors, dict(mse=…)
    """
    key, accepted = f'model.losses.{name}: forward returned', 'accepted: named scalar tensors, dict(mse=…)'
    if not isinstance(terms, Mapping):
        raise TypeError(f'{key} {_described(terms)}; {accepted}')
    if not terms:
        raise TypeError(f'{key} no term; {accepted}')
    for term, value in terms.items():
        if not isinstance(term, str) or not isinstance(value, Tensor) or value.numel() != 1:
            raise TypeError(f'{key} {term!r}: {_described(value)}; {accepted}')
    return dict(terms)


def _described(value: Any) -> str:
    return f'a tensor of shape {tuple(value.shape)}' if isinstance(value, Tensor) else f'a {type(value).__name__}'


class DistillLoss(BaseModule, metaclass=ABCMeta):
    """What all distillation losses are: two sides in, named scalar terms out.

    The weight of the whole loss (``loss_weight`` in the config) belongs to the distiller; a loss only knows
    the weights of its own terms. Whatever a loss learns is a parameter or buffer of it and is saved under
    ``distill.losses.<name>.``.

    Attributes:
        reads_teacher_classes: whether the loss compares what the teacher says of its classes, so that it has to be
            trained on those of the student.
        own_terms: names of the terms that train the loss's own network on the teacher, and the student not at all. The
            loss's weight does not multiply them; where it is 0 they are not trained.
    """

    reads_teacher_classes: bool = False
    own_terms: tuple[str, ...] = ()

    def _without_autocast(self, student: Any, teacher: Any, context: DistillContext, device: str) -> dict[str, Tensor]:
        with torch.autocast(device, enabled=False):
            return super().__call__(student, teacher, context)


class PyramidLoss(DistillLoss):
    """Base of the losses that compare features: two pyramids in, named scalar terms out.

    A loss writes ``forward`` alone, and ``bind`` if it learns or checks anything. It is called as any module is;
    the call brings the levels to float32 and switches autocast off, so ``forward`` never meets half precision.

    Attributes:
        any_width: whether the student's levels may have other channels than the teacher's, as they have with
            ``adapter='never'``, because the loss projects both itself (or compares what has no channels).
    """

    any_width: bool = False

    def bind(self, spec: PyramidSpec) -> None:
        """Check, once at build time, that the pyramids give what the loss needs; create what depends on them.

        Args:
            spec: strides and channels of the paired levels.

        Raises:
            ValueError: if the loss cannot work on these pyramids; the message names the config key.
        """

    def __call__(self, student: Pyramid, teacher: Pyramid, context: DistillContext) -> dict[str, Tensor]:
        """Call :meth:`forward` without autocast, with levels of one type of at least float32, the teacher's detached.

        Args:
            student: levels of shape (N, C_l, H_l, W_l) of any floating-point type.
            teacher: levels of the same shapes (other channels, with ``any_width``).
            context: see :class:`DistillContext`.
        """
        dtype = wide_type((*student, *teacher))
        student = tuple(level.to(dtype) for level in student)
        teacher = tuple(level.detach().to(dtype) for level in teacher)
        return self._without_autocast(student, teacher, context, student[0].device.type)

    @abstractmethod
    def forward(self, student: Pyramid, teacher: Pyramid, context: DistillContext) -> dict[str, Tensor]:
        """Compare the pyramids.

        Args:
            student: levels of shape (N, C_l, H_l, W_l), float32, with gradient.
            teacher: levels of the same shapes (other channels, with ``any_width``), float32, without gradient.
            context: see :class:`DistillContext`.

        Returns:
            Named scalar terms, each multiplied by its own weight.
        """


class HeadLoss(DistillLoss):
    """Base of the losses that compare what dense heads predict: the outputs of two heads in, named scalar terms out.

    As of a :class:`PyramidLoss`, ``forward`` gets float32 without autocast, and a detached teacher. A level is in the
    order of the heads; all that they have are compared.

    Attributes:
        spec: what ``bind`` was given.
        reads_boxes: whether it reads ``HeadOutputs.boxes``.
        reads_positives: whether it reads ``HeadOutputs.positives`` of the student.
        stage: ``None``: the student's side are the student's own predictions. A number: those of the teacher's head,
            whose towers go on with the student's features after so many convolutions of the student's towers.
    """

    reads_boxes: bool = False
    reads_positives: bool = False
    stage: int | None = None

    def bind(self, spec: HeadSpec) -> None:
        """Keep ``spec``; check, once at build time, that the heads give what the loss needs.

        Raises:
            ValueError: if the loss cannot work on these heads; the message names the config key.
        """
        self.spec = spec

    def __call__(self, student: HeadOutputs, teacher: HeadOutputs, context: DistillContext) -> dict[str, Tensor]:
        """Call :meth:`forward` without autocast, with predictions of at least float32, the teacher's detached.

        Args:
            student: see :class:`HeadOutputs`; levels of any floating-point type.
            teacher: of the same shapes.
            context: of the batch, with the strides of the heads' levels.
        """
        dtype = wide_type((*student.scores, *teacher.scores))
        student = student.mapped(lambda level: level.to(dtype))
        teacher = teacher.mapped(lambda level: level.detach().to(dtype))
        return self._without_autocast(student, teacher, context, student.scores[0].device.type)

    @abstractmethod
    def forward(self, student: HeadOutputs, teacher: HeadOutputs, context: DistillContext) -> dict[str, Tensor]:
        """Compare the predictions.

        Args:
            student: float32, with gradient.
            teacher: of the same shapes, without gradient.
            context: see :class:`DistillContext`.

        Returns:
            Named scalar terms, each multiplied by its own weight.
        """
