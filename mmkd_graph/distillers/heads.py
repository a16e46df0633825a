"""The predictions of both dense heads for one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from mmdet.models.dense_heads import GFLHead, TOODHead
from torch import Tensor, nn

from mmkd_graph.losses.base import DistillContext, HeadLoss, HeadOutputs, HeadSpec, Pyramid

from .dense_heads import TOWERS, anchors, bins, crossed, decoded, dense_head, described, read, strides
from .head_trials import HeadTrial
from .taps import default_tap, probe, recorded

if TYPE_CHECKING:
    from .pyramids import Pyramids


class Heads:
    """The ``bbox_head`` of student and teacher. A plain object: it holds modules and registers none.

    Args:
        pyramids: of the two detectors.

    Raises:
        ValueError: if one of them has no dense head that is known, or one that does not do what mmdet's do, if levels
            or anchors differ, or if the tapped features of the teacher are not those that its head takes.
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
        tap = default_tap(pyramids.student)
        self._probed = pyramids.probed if tap == pyramids.tap else probe(pyramids.student, tap, 'taps.student')
        for trial in self._trials():
            trial.try_scores()
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
        if loss.reads_boxes and not loss.stage and (not bins(own) or bins(own) != bins(theirs)):
            raise ValueError(
                f"{type(loss).__name__} compares distributions of box edges: the student's {described(own)} has "
                f"{_values(bins(own))}, the teacher's {described(theirs)} {_values(bins(theirs))}; accepted: GFLHead "
                'on both sides, with the same reg_max'
            )
        if loss.reads_positives and not isinstance(own, GFLHead):
            raise ValueError(f'{type(loss).__name__} reads what the student assigns; accepted: GFLHead')
        if loss.stage:
            self._try_towers(loss.stage)
            self._stages.add(loss.stage)
        self._assigned |= loss.reads_positives
        return HeadSpec(strides(own), ours.num_classes, ours.use_sigmoid_cls, bins(ours), name)

    def _trials(self) -> tuple[HeadTrial, HeadTrial]:
        """Of student and teacher; they are not kept, as a copy of the model would copy the teacher's head with them."""
        theirs = self._pyramids.teacher
        return (
            HeadTrial(self.student, 'student', self._probed.strides, self._probed.channels),
            HeadTrial(self.teacher, 'teacher', theirs.strides, theirs.channels),
        )

    def _try_towers(self, stage: int) -> None:
        """Raise ``ValueError`` if the teacher's towers cannot go on after ``stage`` convolutions of the student's."""
        own, teachers = self._trials()
        for tower, ours, theirs in zip(TOWERS, own.try_towers(stage), teachers.try_towers(stage), strict=True):
            if ours != theirs:
                raise ValueError(
                    f"{tower} of the student's bbox_head is {ours} channels wide, that of the teacher's {theirs}; "
                    'accepted: the same feat_channels'
                )
        teachers.try_crossing(stage)
        teachers.try_boxes()

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
            student = self._read('teacher', self._cross(loss.stage), loss)
        else:
            student = self._read('student', _last(self._record.outputs, self._student, _FORWARD), loss)
        teacher = self._read('teacher', self._predicted, loss)
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
            levels = len(strides(self._student))
            features = [outputs[-levels:] for outputs in self._record.towers[stage]]
            self._crossed[stage] = crossed(self._teacher, features, stage)
        return self._crossed[stage]

    def _read(self, side: str, output: Any, loss: HeadLoss) -> HeadOutputs:
        head = self._student if side == 'student' else self._teacher
        scores, boxes = read(head, output, side, loss.reads_boxes)
        if isinstance(head, TOODHead):  # the only one that gives probabilities
            scores = tuple(level.float().logit(eps=1e-6) for level in scores)
        if loss.reads_boxes and not bins(head):
            boxes = decoded(head, boxes)
        return HeadOutputs(scores, boxes)

    def _positives(self, scores: Pyramid) -> Pyramid:
        targets = _last(self._record.targets, self._student, 'get_targets')
        labels = targets[1] if isinstance(targets, Sequence) and len(targets) > 1 else ()
        found = [tuple(x.shape) for x in labels if isinstance(x, Tensor) and not x.is_floating_point()]
        if found != [(len(level), level[0, 0].numel()) for level in scores]:
            raise ValueError(
                f"get_targets of the student's {described(self._student)} gives {found or type(targets).__name__} "
                'where GFLHead gives labels; accepted: integers (N, H * W) for each level, in place 1 of a tuple'
            )
        return tuple(
            ((x >= 0) & (x < self._student.num_classes)).view(len(x), 1, *level.shape[-2:])
            for x, level in zip(labels, scores, strict=True)
        )


def _last(calls: Sequence[Any], head: nn.Module, call: str) -> Any:
    """What the last call gave.

    Raises:
        ValueError: if there was none.
    """
    if not calls:
        raise ValueError(
            f"the student's {described(head)} computes its loss without a call of {call}, of which the "
            f'result is compared; accepted: a loss that calls it'
        )
    return calls[-1]


_FORWARD = 'self(…) (self.forward(…) runs no hooks)'
_EQUAL = 'accepted: the same'


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


def _cropped(levels: Pyramid, sizes: Sequence[tuple[int, ...]]) -> Pyramid:
    """Other padding adds cells at the bottom and right alone."""
    return tuple(level[..., :h, :w] for level, (h, w) in zip(levels, sizes, strict=True)) if levels else ()


def _values(bins: int | None) -> str:
    return f'{bins} values per edge' if bins else 'none'
