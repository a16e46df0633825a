"""The detector wrapper that turns an mmdet config into a distillation config."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmkd_graph.graph.arguments import check_number
from mmkd_graph.losses.base import Pyramid
from mmkd_graph.registry import MODELS

from .initial import initialising
from .keys import check_model, under
from .objective import Objective
from .pyramids import Pyramids
from .rng import preserved_rng
from .teacher import FrozenTeacher, build_detector, with_preprocessor
from .weights import inherit, load_weights
from .wrapper import StudentWrapper

_OPTIONS = ('student', 'teacher', 'losses', 'taps', 'strides', 'adapter', 'init_student')


@MODELS.register_module()
class GraphDistiller(StudentWrapper):
    """Train any mmdet detector with a frozen teacher beside it; what comes out is the plain detector.

    The student's modules are registered here under the student's own names, so parameter names, checkpoints,
    ``paramwise_cfg`` and optimizer state are those of the plain student; adapters and losses are under
    ``distill.``. The teacher is in none of them. Task losses are the student's own, untouched.

    Args:
        student: required; model dict of any mmdet detector, in a config file ``{{_base_.model}}``.
        teacher: required; ``dict(config=…, checkpoint=…, strict=True)``. ``config`` is a path (local or ``mmdet::…``),
            a whole config or a model dict; ``checkpoint`` is its weights. ``strict=False`` allows weights that are
            missing or do not fit, with a warning, if those of half of backbone and neck do.
        losses: required; ``{name: dict(type=…, loss_weight=1.0, …)}``, one or more. With ``loss_weight=0`` a loss is
            measured and logged as ``kd.<name>.<term>``, and the student trains as without it.
            ``loss_weight=dict(type='mmkd_graph.GradientRatio', ratio=0.5)`` measures the weight.
        taps: ``dict(student='neck', teacher='neck')``, dotted module paths, or one string for both. ``None``: the neck,
            or the backbone of detectors without one.
        strides: distil only these, in input pixels per cell; ``None``: all that both pyramids have.
        adapter: ``'auto'`` (where widths differ), ``'always'`` or ``'never'``: see
            :class:`~mmkd_graph.necks.PyramidAdapter`. With ``'never'`` widths may differ if every loss takes that
            (``PyramidLoss.any_width``).
        init_student: ``None`` (the student's own ``init_cfg``); ``'teacher'`` (afterwards neck and heads start from the
            teacher's weights where names and shapes agree, the inheriting strategy of arXiv 2110.12724, which FGD uses
            too); or the path or URL of a checkpoint of the student.

    Raises:
        FileNotFoundError, TypeError, ValueError: at build time, naming the config key and what is accepted.

    Example::

        _base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
        model = dict(
            _delete_=True,
            type='mmkd_graph.GraphDistiller',
            student={{_base_.model}},
            teacher=dict(config='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py', checkpoint='https://…'),
            losses=dict(crg=dict(type='mmkd_graph.CRGLoss')))
    """

    @under('model', _OPTIONS)
    def __init__(
        self,
        student: Mapping | None = None,
        teacher: Mapping | None = None,
        losses: Mapping[str, Mapping] | None = None,
        taps: Mapping[str, str] | str | None = None,
        strides: Sequence[int] | None = None,
        adapter: str = 'auto',
        init_student: str | None = None,
        **others: Any,
    ) -> None:
        check_model(dict(student=student, teacher=teacher, losses=losses), others, _OPTIONS)
        student = with_preprocessor(student, others.get('data_preprocessor'))
        super().__init__(build_detector(student, 'student'))
        self.pyramids = Pyramids(self.student, teacher, taps, strides)
        with preserved_rng():
            self.distill = Objective(losses, self.pyramids, adapter)
        self.init_student = init_student
        said = [f'{name} ({weight.extra_repr()})' for name, weight in self.distill.weights.items()]
        convolutions = sum(isinstance(level, nn.Conv2d) for level in self.distill.adapter.levels)
        adapted = f'{convolutions} of {len(self.strides)} levels adapted'
        print_log(f'GraphDistiller: {self.pyramids}; {adapted}; losses {", ".join(said)}', logger='current')

    @property
    def teacher(self) -> FrozenTeacher:
        """The frozen teacher."""
        return self.pyramids.teacher

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the paired levels, in input pixels per cell."""
        return self.pyramids.strides

    def _apply(self, fn: Callable, recurse: bool = True) -> GraphDistiller:
        super()._apply(fn, recurse)
        self.teacher.apply_(fn)
        return self

    @under('model', _OPTIONS)
    def init_weights(self) -> None:
        """Initialise the student as it would be alone, then the adapters without touching its random numbers.

        Files are read as weights only (:func:`~mmkd_graph.checkpoints.weights_only`).

        Raises:
            FileNotFoundError, ValueError: if ``init_student`` names a checkpoint that does not fit the student;
                ValueError if that of a ``Pretrained`` holds more than weights.
        """
        if self._is_init:
            return super().init_weights()  # mmengine's warning about a second call
        with initialising(self):
            self.student.init_weights()
            with preserved_rng():
                self.distill.init_weights()
        if self.init_student == 'teacher':
            inherit(self.student, self.teacher.model)
        elif self.init_student is not None:
            load_weights(self.student, self.init_student, 'init_student')
        self._is_init = True

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor') -> Any:
        """As any detector's; a pass in which a weight is measured is not compiled."""
        if mode == 'loss' and self.distill.measuring:
            return self._uncompiled(inputs, data_samples)
        return super().forward(inputs, data_samples, mode)

    @torch.compiler.disable
    def _uncompiled(self, inputs: Tensor, data_samples: list) -> dict[str, Any]:
        # A compiled graph gives no gradient at features in its middle, and none twice.
        return self.loss(inputs, data_samples)

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict[str, Any]:
        """The student's own losses and the distillation terms, of inputs (N, C, H, W) normalised for the student.

        Returns:
            The student's dict, plus ``loss_kd.<name>.<term>`` per term: weighted, but for the terms that train the
            loss's own network (``PyramidLoss.own_terms``). What does not count is in the dict ``kd``, see
            :meth:`parse_losses`: terms of a loss of weight 0 as ``<name>.<term>``, and while a weight is measured
            ``<name>.gradient_ratio``, how many times the task losses' gradient that of the unweighted loss is. A loss
            whose factor is 0 (see :meth:`set_loss_factor`) is not computed, and without any loss the teacher does not
            run.

        Raises:
            ValueError: if a weight is to be measured and cannot be.
        """
        if not self.distill.active:
            return {**self.student.loss(batch_inputs, batch_data_samples), **self.distill.idle()}
        task, pair = self.pyramids.run(self.student.loss, batch_inputs, batch_data_samples, self.distill.heads)
        return {**task, **self.distill(pair, task)}

    def parse_losses(self, losses: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The total and what is logged; what is in the dict ``kd`` is logged as ``kd.…``, and does not count."""
        total, values = super().parse_losses({key: x for key, x in losses.items() if key != 'kd'})
        return total, {**values, **{f'kd.{key}': x.mean() for key, x in losses.get('kd', {}).items()}}

    def set_loss_factor(self, name: str, factor: float) -> None:
        """Multiply the weight of the loss ``name`` from now on, as :class:`~mmkd_graph.hooks.LossScheduleHook` does.

        ``factor`` is a finite number >= 0; with 0 the loss is not even computed. ValueError for others.
        """
        if name not in self.distill.weights:
            raise ValueError(f'no loss {name!r}; accepted: {", ".join(map(repr, self.distill.weights))}')
        check_number(f'factor of model.losses.{name}', factor)
        self.distill.weights[name].factor = float(factor)

    @torch.no_grad()
    def compared_features(self, inputs: Tensor, data_samples: list) -> tuple[Pyramid, Pyramid]:
        """Paired pyramids of a preprocessed batch in eval mode: (adapted student, teacher), see ``strides``."""
        training = self.training
        self.eval()
        try:
            _, pair = self.pyramids.run(lambda x, _: self.student.extract_feat(x), inputs, data_samples)
            return self.distill.adapter(pair.student), pair.teacher
        finally:
            self.train(training)
