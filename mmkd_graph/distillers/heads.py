"""Dense heads: which of them can be compared, and the predictions of both for one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from mmdet.models.dense_heads import (
    ATSSHead,
    DETRHead,
    FCOSHead,
    GFLHead,
    PAAHead,
    RetinaHead,
    RTMDetHead,
    TOODHead,
    VFNetHead,
    YOLOXHead,
)
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn

from mmkd_graph.losses.base import DistillContext, HeadLoss, HeadOutputs, HeadSpec, Pyramid

from .taps import default_tap, recorded

if TYPE_CHECKING:
    from .pyramids import Pyramids

SCORED = (RetinaHead, FCOSHead, ATSSHead, GFLHead, PAAHead, TOODHead, VFNetHead, RTMDetHead, YOLOXHead)
"""Heads whose class scores can be compared."""
CROSSED = (RetinaHead, FCOSHead, ATSSHead, GFLHead, PAAHead, VFNetHead)
"""Those of them that begin with two towers, lists of convolutions that all levels share."""
TOWERS = ('cls_convs', 'reg_convs')


class Heads:
    """The ``bbox_head`` of student and teacher. A plain object: it holds modules and registers none.

    Args:
        pyramids: of the two detectors.

    Raises:
        ValueError: if one of them has no dense head that is known, if levels or anchors differ, or if the tapped
            features of the teacher are not those that its head takes.
    """

    def __init__(self, pyramids: Pyramids) -> None:
        self._pyramids = pyramids
        own, theirs = dense_head(pyramids.student, 'student'), dense_head(pyramids.teacher.model, 'teacher')
        taken = default_tap(pyramids.teacher.model)
        if pyramids.teacher.tap != taken:
            raise ValueError(
                f"the teacher's bbox_head takes what its {taken} gives, and taps.teacher is "
                f'{pyramids.teacher.tap!r}; accepted: {taken!r}'
            )
        for what, ours, others in (
            ('strides', strides(own), strides(theirs)),
            ('anchors per cell', anchors(own), anchors(theirs)),
            ('class scores by', *('sigmoid' if x.use_sigmoid_cls else 'softmax' for x in (own, theirs))),
        ):
            if ours != others:
                raise ValueError(f"{what}: {ours} of the student's bbox_head, {others} of the teacher's; {_EQUAL}")
        # what the losses need from the student's pass
        self._stages: set[int] = set()
        self._assigned = False

    @property
    def student(self) -> nn.Module:
        """The student's head."""
        return self._pyramids.student.bbox_head

    @property
    def teacher(self) -> nn.Module:
        """The teacher's head."""
        return self._pyramids.teacher.model.bbox_head

    def spec(self, loss: HeadLoss, name: str) -> HeadSpec:
        """What to bind ``loss`` to; from now on each pass records what it reads.

        Raises:
            ValueError: if these heads do not give what it needs.
        """
        own, theirs = self.student, self.teacher
        if loss.reads_teacher_classes and own.num_classes != theirs.num_classes:
            raise ValueError(
                f"num_classes: {own.num_classes} of the student's bbox_head, {theirs.num_classes} of the teacher's, "
                f'and {type(loss).__name__} compares their scores; {_EQUAL}, of the same classes'
            )
        ours = theirs if loss.stage else own
        if loss.reads_boxes and not loss.stage:
            bins = [x.reg_max + 1 if isinstance(x, GFLHead) else None for x in (own, theirs)]
            if None in bins or bins[0] != bins[1]:
                raise ValueError(
                    f"{type(loss).__name__} compares distributions of box edges: the student's {_described(own)} has "
                    f"{_values(bins[0])}, the teacher's {_described(theirs)} {_values(bins[1])}; accepted: GFLHead on "
                    'both sides, with the same reg_max'
                )
        if loss.reads_positives and not isinstance(own, GFLHead):
            raise ValueError(f'{type(loss).__name__} reads what the student assigns; accepted: GFLHead')
        if loss.stage:
            check_towers(own, theirs, loss.stage)
            self._stages.add(loss.stage)
        self._assigned |= loss.reads_positives
        bins = ours.reg_max + 1 if isinstance(ours, GFLHead) else None
        return HeadSpec(strides(own), ours.num_classes, ours.use_sigmoid_cls, bins, name)

    @contextmanager
    def recorded(self) -> Iterator[Record]:
        """Keep the outputs of the student's head while the context is open; see :func:`~.taps.recorded`."""
        with ExitStack() as stack:
            outputs = stack.enter_context(recorded(self.student))
            towers = {
                stage: [stack.enter_context(recorded(getattr(self.student, tower)[stage - 1])) for tower in TOWERS]
                for stage in self._stages
            }
            targets = stack.enter_context(returned(self.student, 'get_targets')) if self._assigned else []
            yield Record(outputs, towers, targets)


class Record(NamedTuple):
    """Outputs of one pass of the student.

    Attributes:
        outputs: of the head.
        towers: by stage, features of every level in the classification tower and in the regression tower.
        targets: of the assignment.
    """

    outputs: list[Any]
    towers: dict[int, list[list[Tensor]]]
    targets: list[Any]


class HeadPair:
    """Predictions of both heads for one batch. The teacher's head runs once, when the first loss needs it.

    Args:
        heads: of student and teacher.
        record: of the student's pass.
        pyramid: input of the teacher's head.
        context: of the batch; its strides are not read.
    """

    def __init__(self, heads: Heads, record: Record, pyramid: Pyramid, context: DistillContext) -> None:
        self._student, self._teacher = heads.student, heads.teacher
        self._record, self._pyramid = record, pyramid
        self._crossed: dict[int, tuple[Any, ...]] = {}
        self._context = DistillContext(context.data_samples, strides(self._student), context.batch_shape)

    def compared(self, loss: HeadLoss) -> tuple[HeadOutputs, HeadOutputs, DistillContext]:
        """What ``loss`` is called with: both sides, cropped to the cells that they share, and the context."""
        if loss.stage:
            student = self._read(self._teacher, self._cross(loss.stage), loss)
        else:
            student = self._read(self._student, self._record.outputs[-1], loss)
        teacher = self._read(self._teacher, self._predicted, loss)
        sizes = [
            tuple(map(min, s.shape[-2:], t.shape[-2:])) for s, t in zip(student.scores, teacher.scores, strict=True)
        ]
        positives = self._positives(student.scores) if loss.reads_positives else ()
        return (
            HeadOutputs(*(_cropped(x, sizes) for x in (student.scores, student.boxes, positives))),
            HeadOutputs(_cropped(teacher.scores, sizes), _cropped(teacher.boxes, sizes)),
            self._context,
        )

    @cached_property
    @torch.no_grad()
    def _predicted(self) -> tuple[Any, ...]:
        return self._teacher(self._pyramid)

    def _cross(self, stage: int) -> tuple[Any, ...]:
        """The teacher's head on the student's features; the gradient passes through to them."""
        if stage not in self._crossed:
            levels = len(self._pyramid)
            features = [outputs[-levels:] for outputs in self._record.towers[stage]]
            with fed(self._teacher, features, stage):
                self._crossed[stage] = self._teacher(tuple(features[0]))
        return self._crossed[stage]

    def _read(self, head: nn.Module, output: tuple[Any, ...], loss: HeadLoss) -> HeadOutputs:
        scores = output[0]
        if isinstance(head, TOODHead):  # the only one that gives probabilities
            scores = [level.float().logit(eps=1e-6) for level in scores]
        boxes = output[1] if loss.reads_boxes else ()
        if loss.reads_boxes and not isinstance(head, GFLHead):
            boxes = decoded(head, boxes)
        return HeadOutputs(tuple(scores), tuple(boxes))

    def _positives(self, scores: Pyramid) -> Pyramid:
        labels = self._record.targets[-1][1]  # by level (N, H * W)
        return tuple(
            ((x >= 0) & (x < self._student.num_classes)).view(len(x), 1, *level.shape[-2:])
            for x, level in zip(labels, scores, strict=True)
        )


_EQUAL = 'accepted: the same'


def dense_head(detector: nn.Module, side: str) -> nn.Module:
    """The head of the ``side``, student or teacher, that predicts for every place of its levels.

    Raises:
        ValueError: if it has none, or one that is not known.
    """
    kind, head = type(detector).__name__, getattr(detector, 'bbox_head', None)
    accepted = f'accepted: detectors whose bbox_head is one of {_listed(SCORED)}'
    if getattr(detector, 'roi_head', None) is not None:
        raise ValueError(
            f'the {side} ({kind}) has two stages, and its second one predicts for proposals, which the two detectors '
            f'do not share; {accepted}'
        )
    if isinstance(head, DETRHead):
        raise ValueError(
            f'the {side} ({kind}) predicts for queries, and which query of the student belongs to which of the teacher '
            f'is not known; {accepted}'
        )
    if not isinstance(head, SCORED):
        found = 'no bbox_head' if head is None else f'a {type(head).__name__} as bbox_head'
        raise ValueError(f'the {side} ({kind}) has {found}; {accepted}')
    return head


def strides(head: nn.Module) -> tuple[int, ...]:
    """Of its levels, in input pixels per cell."""
    return tuple(x[0] if isinstance(x, Sequence) else x for x in head.prior_generator.strides)


def anchors(head: nn.Module) -> int | list[str]:
    """How many there are per cell; of several, which are compared each with its like, the sizes on the first level."""
    count = head.prior_generator.num_base_priors[0]
    if count == 1:
        return count
    return [f'{x2 - x1:.0f}x{y2 - y1:.0f}' for x1, y1, x2, y2 in head.prior_generator.base_anchors[0].tolist()]


def check_towers(student: nn.Module, teacher: nn.Module, stage: int) -> None:
    """Raise ``ValueError`` if the teacher's towers cannot go on after ``stage`` convolutions of the student's."""
    for side, head in (('student', student), ('teacher', teacher)):
        # of the nearest relative: RTMDet and TOOD are derived from ATSS
        if next(kind for kind in type(head).__mro__ if kind in SCORED) not in CROSSED:
            raise ValueError(
                f"the {side}'s {_described(head)} does not begin with cls_convs and reg_convs that all levels share; "
                f'accepted: {_listed(CROSSED)}'
            )
        for tower in TOWERS:
            if len(getattr(head, tower)) < stage:
                raise ValueError(
                    f"stage={stage}: {tower} of the {side}'s bbox_head has {len(getattr(head, tower))} convolutions; "
                    f'accepted: 1 to {min(len(getattr(x, t)) for x in (student, teacher) for t in TOWERS)}'
                )
    for tower in TOWERS:
        ours, theirs = (getattr(head, tower)[stage - 1].out_channels for head in (student, teacher))
        if ours != theirs:
            raise ValueError(
                f"{tower} of the student's bbox_head is {ours} channels wide, that of the teacher's {theirs}; "
                'accepted: the same feat_channels'
            )


@contextmanager
def returned(owner: Any, method: str) -> Iterator[list[Any]]:
    """Collect what a method returns while the context is open."""
    results: list[Any] = []
    original: Callable = getattr(owner, method)

    def call(*args: Any, **kwargs: Any) -> Any:
        results.append(original(*args, **kwargs))
        return results[-1]

    setattr(owner, method, call)
    try:
        yield results
    finally:
        delattr(owner, method)  # the class has it


class _Feed(nn.Module):
    """Gives one level after the other, whatever it is given."""

    def __init__(self, levels: Sequence[Tensor]) -> None:
        super().__init__()
        self._levels = iter(levels)

    def forward(self, _: Tensor) -> Tensor:
        return next(self._levels)


@contextmanager
def fed(head: nn.Module, features: Sequence[Sequence[Tensor]], stage: int) -> Iterator[None]:
    """While the context is open, the towers of ``head`` begin behind ``stage`` convolutions, with other features.

    Args:
        head: one of :data:`CROSSED`.
        features: of both towers, level by level (N, C, H, W).
        stage: convolutions that are left out.
    """
    towers = {name: getattr(head, name) for name in TOWERS}
    try:
        for (name, tower), levels in zip(towers.items(), features, strict=True):
            setattr(head, name, nn.ModuleList([_Feed(levels), *tower[stage:]]))
        yield
    finally:
        for name, tower in towers.items():
            setattr(head, name, tower)


def decoded(head: nn.Module, boxes: Sequence[Tensor]) -> Pyramid:
    """Corners (N, A * 4, H, W) in pixels, of what a head in eval mode predicts (FCOS has other units in training)."""
    boxes = [level.float() for level in boxes]
    priors = head.prior_generator.grid_priors([x.shape[-2:] for x in boxes], device=boxes[0].device)
    corners = []
    for level, prior in zip(boxes, priors, strict=True):
        places = level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2)  # (N, H, W, A, 4), in the order of the priors
        flat = head.bbox_coder.decode(get_box_tensor(prior).repeat(len(level), 1), places.reshape(-1, 4))
        corners.append(get_box_tensor(flat).view_as(places).permute(0, 3, 4, 1, 2).flatten(1, 2))
    return tuple(corners)


def _cropped(levels: Pyramid, sizes: Sequence[tuple[int, ...]]) -> Pyramid:
    """Other padding adds cells at the bottom and right alone."""
    return tuple(level[..., :h, :w] for level, (h, w) in zip(levels, sizes, strict=True)) if levels else ()


def _listed(kinds: Sequence[type]) -> str:
    return ', '.join(kind.__name__ for kind in kinds)


def _described(head: nn.Module) -> str:
    return f'bbox_head ({type(head).__name__})'


def _values(bins: int | None) -> str:
    return f'{bins} values per edge' if bins else 'none'
