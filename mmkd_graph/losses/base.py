"""What every distillation loss receives and returns, and what all of them need."""

from __future__ import annotations

import functools
import operator
from abc import ABCMeta, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
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

    def valid_cells(self, level: Tensor, stride: int) -> Tensor:
        """Which cells of a level (N, C, H, W) begin inside of their image: (N, 1, H, W) booleans.

        Without data samples all do.
        """
        valid = torch.ones(len(level), 1, *level.shape[-2:], dtype=torch.bool, device=level.device)
        for i, (height, width) in enumerate(self.image_shapes):
            valid[i, :, -(-height // stride) :] = False
            valid[i, :, :, -(-width // stride) :] = False
        return valid


LevelWeights = Literal['equal', 'area'] | Sequence[float]


def level_shares(weights: LevelWeights, strides: Sequence[int], name: str) -> list[float]:
    r"""The share of a loss that each level has, for a loss's ``bind``.

    Args:
        weights: ``'equal'``, every level the same; ``'area'``, every cell the same, so that a level has
            :math:`1 / \mathrm{stride}^2` of the weight; or one number >= 0 per level, finest first.
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


class PyramidLoss(BaseModule, metaclass=ABCMeta):
    """Base of all distillation losses: two pyramids in, named scalar terms out.

    A loss writes ``forward`` alone, and ``bind`` if it learns or checks anything. It is called as any module is;
    the call brings the levels to float32 and switches autocast off, so ``forward`` never meets half precision.

    The weight of the whole loss (``loss_weight`` in the config) belongs to the distiller; a loss only knows
    the weights of its own terms. Whatever a loss learns is a parameter or buffer of it and is saved under
    ``distill.losses.<name>.``.

    Attributes:
        any_width: whether the student's levels may have other channels than the teacher's, as they have with
            ``adapter='never'``, because the loss projects both itself (or compares what has no channels).
        reads_teacher_classes: whether the loss compares what the teacher says of its classes, so that it has to be
            trained on those of the student.
        own_terms: names of the terms that train the loss's own network on the teacher, and the student not at all. The
            loss's weight does not multiply them; where it is 0 they are not trained.
    """

    any_width: bool = False
    reads_teacher_classes: bool = False
    own_terms: tuple[str, ...] = ()

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
        with torch.autocast(student[0].device.type, enabled=False):
            return super().__call__(student, teacher, context)

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
