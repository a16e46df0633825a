"""A detector whose own names are those of another detector that it holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmdet.models.detectors import BaseDetector
from torch import Tensor, nn

RESERVED = ('distill', 'student', 'teacher', 'pyramids')


class StudentWrapper(BaseDetector):
    """Hold a detector and be it: parameters, buffers, checkpoints, ``paramwise_cfg`` and hooks see its names alone.

    Whatever a subclass registers beside it has to be under ``distill.``, which loading in the student skips.

    Args:
        student: the detector. Its modules are registered here too; it stays usable by itself.

    Raises:
        ValueError: if it has an attribute that a distiller needs.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__(data_preprocessor=student.data_preprocessor)
        for name in (*RESERVED, 'teacher_model'):
            if hasattr(student, name):
                raise ValueError(
                    f'student: {type(student).__name__} has a {name!r} of its own; accepted: detectors without one '
                    '(semi-supervised and distilling detectors are not: give the detector that they train)'
                )
        object.__setattr__(self, '_student', student)
        self._modules.update(student._modules)
        self._parameters.update(student._parameters)
        self._buffers.update(student._buffers)
        self._non_persistent_buffers_set.update(student._non_persistent_buffers_set)

    @property
    def student(self) -> nn.Module:
        """The plain detector; it shares its modules with this one."""
        return self.__dict__['_student']

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith('_') or '_student' not in self.__dict__:
                raise
            return getattr(self.__dict__['_student'], name)

    def train(self, mode: bool = True) -> StudentWrapper:
        """Set the training mode of the student and of what is registered beside it."""
        super().train(mode)
        self.student.train(mode)
        return self

    def _apply(self, fn: Callable, recurse: bool = True) -> StudentWrapper:
        super()._apply(fn, recurse)
        for own, theirs in ((self._parameters, self.student._parameters), (self._buffers, self.student._buffers)):
            theirs.update((name, own[name]) for name in theirs)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Let the student read its names: detectors translate those of related checkpoints here (RPN, two-stage)."""
        *others, unexpected_keys, messages = args
        unknown: list[str] = []
        self.student._load_from_state_dict(state_dict, prefix, *others, unknown, messages)
        unexpected_keys += [key for key in unknown if not key.startswith(f'{prefix}distill.')]

    def predict(self, batch_inputs: Tensor, batch_data_samples: list, **kwargs: Any) -> list:
        """The student's own predictions."""
        return self.student.predict(batch_inputs, batch_data_samples, **kwargs)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: list | None = None) -> Any:
        return self.student._forward(batch_inputs, batch_data_samples)

    def extract_feat(self, batch_inputs: Tensor) -> Any:
        """The student's own features."""
        return self.student.extract_feat(batch_inputs)
