"""From one batch to two pyramids: what is tapped, which levels belong together, what the teacher is fed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmkd_graph.losses.base import DistillContext, Pyramid

from .heads import HeadPair, Heads
from .inputs import InputTransfer
from .keys import near
from .taps import as_pyramid, default_tap, probe, recorded
from .teacher import FrozenTeacher


@dataclass(frozen=True)
class PyramidPair:
    """The paired levels of one batch, finest first.

    Attributes:
        tapped: the student's levels as the tap gives them, (N, C_l, H_l, W_l).
        student: the same, cropped to the cells that both sides have, not adapted yet.
        teacher: the teacher's, without gradient.
        context: of the batch.
        tap: path of the student's tapped module, for messages.
        heads: predictions of both heads, if they were requested.
    """

    tapped: Pyramid
    student: Pyramid
    teacher: Pyramid
    context: DistillContext
    tap: str
    heads: HeadPair | None = None

    def check_gradients(self, key: str) -> None:
        """Raise ``ValueError``, naming ``key``, if no tapped level takes a gradient."""
        if not any(x.requires_grad for x in self.tapped):
            raise ValueError(
                f'{key}: the tapped student features take no gradient, as everything up to taps.student={self.tap!r} '
                'is frozen; accepted: a tap behind something that is trained, or a number as loss_weight'
            )


class Pyramids:
    """The taps of student and teacher. A plain object: it holds modules and registers none.

    Args:
        student: the detector that is trained.
        teacher: config of its teacher, see :meth:`FrozenTeacher.from_config`.
        taps: dotted paths of the tapped modules, ``dict(student=…, teacher=…)`` or one for both; ``None``: the neck,
            or the backbone without one.
        strides: the only strides to pair, in input pixels per cell; ``None``: all that both pyramids have.

    Attributes:
        teacher: built and frozen.
        tap: path of the student's tapped module.
        probed: what was measured of the student there.
        strides: of the paired levels.
        skipped: strides that only one side has, or that are not wanted.
        student_channels: of the paired levels, before any adapter.
        teacher_channels: of the paired levels.

    Raises:
        FileNotFoundError, TypeError, ValueError: naming the key under ``model`` and what is accepted.
    """

    def __init__(
        self, student: nn.Module, teacher: Any, taps: Any = None, strides: Sequence[int] | None = None
    ) -> None:
        own_tap, teachers_tap = _read_taps(taps)
        self.student = student
        self.tap = own_tap or default_tap(student)
        self.probed = probe(student, self.tap, 'taps.student')
        found, channels, images = self.probed
        self.teacher = teacher = FrozenTeacher.from_config(teacher, teachers_tap)
        if images != teacher.image_channels:
            raise ValueError(
                f'the student takes images of {images} channels, the teacher (teacher.config) of '
                f'{teacher.image_channels}; accepted: the same number'
            )
        self._transfer = InputTransfer(student.data_preprocessor, teacher.model.data_preprocessor, images)
        self._pairs = pair_levels(found, teacher.strides, strides)
        self.strides = tuple(found[i] for i, _ in self._pairs)
        self.skipped = tuple(sorted({*found, *teacher.strides} - {*self.strides}))
        self.student_channels = tuple(channels[i] for i, _ in self._pairs)
        self.teacher_channels = tuple(teacher.channels[j] for _, j in self._pairs)

    def __str__(self) -> str:
        ours = f'{type(self.student).__name__}.{self.tap}'
        theirs = f'{type(self.teacher.model).__name__}.{self.teacher.tap}'
        return f'{ours} <- {theirs}; strides paired {self.strides}, skipped {self.skipped}'

    def teacher_inputs(self, inputs: Tensor, data_samples: Sequence) -> Tensor:
        """What the teacher is given for a batch (N, C, H, W) that is normalised for the student."""
        shapes = [tuple(sample.metainfo.get('img_shape', inputs.shape[-2:]))[:2] for sample in data_samples]
        return self._transfer(inputs, shapes)

    def run(
        self, forward: Callable[..., Any], inputs: Tensor, data_samples: list, heads: Heads | None = None
    ) -> tuple[Any, PyramidPair]:
        """Run the teacher, and the student by ``forward(inputs, data_samples)``, on one preprocessed batch.

        ``forward`` is a method of the student that passes the tap, ``inputs`` (N, C, H, W) are normalised for the
        student. With ``heads``, ``forward`` has to pass the student's head too. Returns what ``forward`` gives, and the
        pyramids.
        """
        levels = self.teacher(self.teacher_inputs(inputs, data_samples))
        with (
            recorded(self.student.get_submodule(self.tap)) as outputs,
            heads.recorded() if heads else nullcontext() as record,
        ):
            result = forward(inputs, data_samples)
        own = as_pyramid(outputs[-1], 'taps.student')
        tapped = tuple(own[i] for i, _ in self._pairs)
        student, teacher = [], []
        for (_, j), ours in zip(self._pairs, tapped, strict=True):
            # Other padding adds cells at the bottom and right alone.
            h, w = (min(a, b) for a, b in zip(ours.shape[-2:], levels[j].shape[-2:], strict=True))
            student.append(ours[..., :h, :w])
            teacher.append(levels[j][..., :h, :w])
        # Some backbones give several maps per image in training, one for each of their branches (TridentNet).
        branches = max(len(student[0]) // len(teacher[0]), 1)
        if branches > 1:
            teacher = [level.repeat(branches, 1, 1, 1) for level in teacher]
        context = DistillContext(list(data_samples) * branches, self.strides, tuple(inputs.shape[-2:]))
        predictions = HeadPair(heads, record, levels, context) if heads else None
        return result, PyramidPair(tapped, tuple(student), tuple(teacher), context, self.tap, predictions)


def _read_taps(taps: Any) -> tuple[str | None, str | None]:
    accepted = "accepted: a module path, or dict(student='neck', teacher='neck')"
    if taps is None or isinstance(taps, str):
        return taps, taps
    if not isinstance(taps, Mapping):
        raise ValueError(f'taps={taps!r}; {accepted}')
    for side, path in taps.items():
        if side not in ('student', 'teacher'):
            raise ValueError(f'taps.{side} is unknown{near(side, ("student", "teacher"))}; {accepted}')
        if path is not None and not isinstance(path, str):
            raise ValueError(f'taps.{side}={path!r}; accepted: a module path')
    return taps.get('student'), taps.get('teacher')


def pair_levels(student: Sequence[int], teacher: Sequence[int], wanted: Sequence[int] | None) -> list[tuple[int, int]]:
    """Indices (student, teacher) of levels of equal stride, finest first; equal strides pair in order.

    Strides are in input pixels per cell; only those that are ``wanted`` pair, all with ``None``.

    Raises:
        ValueError: if there is no common stride, or a wanted one is not shared.

    Example:
        >>> pair_levels((4, 8, 16), (8, 16, 32), None)
        [(1, 0), (2, 1)]
    """
    listed = isinstance(wanted, Sequence) and wanted and all(isinstance(stride, int) for stride in wanted)
    if wanted is not None and not listed:
        raise ValueError(f'strides={wanted!r}; accepted: None, or a list of at least one integer')
    pairs, used = [], set()
    for i, stride in sorted(enumerate(student), key=lambda level: level[1]):  # YOLOv3 gives the coarsest one first
        if wanted is not None and stride not in wanted:
            continue
        j = next((j for j, other in enumerate(teacher) if other == stride and j not in used), None)
        if j is not None:
            used.add(j)
            pairs.append((i, j))
    common = sorted({*student} & {*teacher})
    if not common:
        raise ValueError(
            f'taps: no common stride: the student tap has strides {tuple(student)}, the teacher tap {tuple(teacher)}; '
            'accepted: model.taps.student and model.taps.teacher that share at least one'
        )
    if wanted is not None and set(wanted) - set(common):
        raise ValueError(f'strides={tuple(wanted)}: {sorted(set(wanted) - set(common))} not shared; accepted: {common}')
    return pairs
