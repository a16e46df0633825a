"""The detector wrapper that turns an mmdet config into a distillation config."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pickle import UnpicklingError
from typing import Any

import torch
from mmdet.models.detectors import BaseDetector
from mmengine.logging import print_log
from mmengine.model import BaseModule, ModuleDict
from torch import Tensor, nn

from mmkd_graph.checkpoints import HOW_TO_TRUST, refusal, weights_only
from mmkd_graph.graph.arguments import check_number
from mmkd_graph.losses.base import DistillContext, PyramidLoss, PyramidSpec, check_terms
from mmkd_graph.losses.names import current_config
from mmkd_graph.necks import PyramidAdapter
from mmkd_graph.registry import MODELS, type_name

from .gradient_norms import gradient_norm
from .gradient_ratio import GradientRatio
from .inputs import InputTransfer
from .keys import check_options, find_class, near, options_of, under
from .rng import preserved_rng
from .taps import as_pyramid, default_tap, probe, recorded
from .teacher import FrozenTeacher, build_detector
from .weights import load_weights

_RESERVED = ('distill', 'student', 'teacher', 'teacher_model')
_OPTIONS = ('student', 'teacher', 'losses', 'taps', 'strides', 'adapter', 'init_student')


class Distillation(BaseModule):
    """Everything that training adds to the student: adapters, losses and the weights of losses that are measured.

    Lives under ``distill.`` in checkpoints.
    """

    def __init__(
        self, adapter: PyramidAdapter, losses: dict[str, PyramidLoss], weights: dict[str, GradientRatio]
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.losses = ModuleDict(losses)
        self.weights = ModuleDict(weights)


@MODELS.register_module()
class GraphDistiller(BaseDetector):
    """Train any mmdet detector with a frozen teacher beside it; what comes out is the plain detector.

    The student's modules are registered here under the student's own names, so parameter names, checkpoints,
    ``paramwise_cfg`` and optimizer state are those of the plain student; adapters and losses are under
    ``distill.``. The teacher is in none of them. Task losses are the student's own, untouched.

    Args:
        student: model dict of any mmdet detector; in a config file ``{{_base_.model}}``.
        teacher: ``dict(config=…, checkpoint=…, strict=True)``. ``config`` is a path (local or ``mmdet::…``), a whole
            config or a model dict; ``checkpoint`` its weights. ``strict=False`` allows weights that do not match,
            if those of half of backbone and neck do.
        losses: ``{name: dict(type=…, loss_weight=1.0, …)}``; several work together. With ``loss_weight=0`` a loss is
            measured and logged as ``kd.<name>.<term>``, trains nothing, and the student trains as without it. Instead
            of a number, ``loss_weight=dict(type='mmkd_graph.GradientRatio', ratio=0.5)`` finds the weight by itself.
        taps: ``dict(student='neck', teacher='neck')``, dotted module paths; default: the neck, or the backbone of
            detectors without one. A string stands for both.
        strides: distil only these strides, in input pixels per cell; default: all that both pyramids have.
        adapter: ``'auto'``, ``'always'`` or ``'never'``: see :class:`~mmkd_graph.necks.PyramidAdapter`. With
            ``'never'`` widths may differ if every loss takes that (``PyramidLoss.any_width``).
        init_student: ``None`` (the student's own ``init_cfg``), ``'teacher'`` (afterwards neck and heads start from
            the teacher's weights where names and shapes agree: the inheriting strategy of arXiv 2110.12724, which FGD
            uses too), or the path or URL of a checkpoint of the student.

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
        _check_keys(student, others)
        for key, value, accepted in (
            ('student', student, 'the model dict of an mmdet detector, in a config file student={{_base_.model}}'),
            ('teacher', teacher, "dict(config='…', checkpoint='…')"),
            ('losses', losses, "dict(crg=dict(type='mmkd_graph.CRGLoss'))"),
        ):
            if value is None:
                raise ValueError(f'{key} is missing; accepted: {accepted}')
        student_model = build_detector(_with_preprocessor(student, others), 'student')
        super().__init__(data_preprocessor=student_model.data_preprocessor)
        self._adopt(student_model)

        tap_s, tap_t = _read_taps(taps)
        self._tap = tap_s or default_tap(student_model)
        student_strides, student_channels, images = probe(student_model, self._tap, 'taps.student')
        frozen = FrozenTeacher.from_config(teacher, tap_t)
        object.__setattr__(self, '_teacher', frozen)
        if images != frozen.image_channels:
            raise ValueError(
                f'the student takes images of {images} channels, the teacher (teacher.config) of '
                f'{frozen.image_channels}; accepted: the same number'
            )
        self._transfer = InputTransfer(self.data_preprocessor, frozen.model.data_preprocessor, images)
        self._pairs = _pair_levels(student_strides, frozen.strides, strides)
        self.strides = tuple(student_strides[i] for i, _ in self._pairs)

        channels_s = tuple(student_channels[i] for i, _ in self._pairs)
        channels_t = tuple(frozen.channels[j] for _, j in self._pairs)
        with preserved_rng():
            modules, weights = _build_losses(losses)
            # Widths that stay different are an error only where a loss cannot take them.
            unequal = adapter == 'never' and all(module.any_width for module in modules.values())
            adapted = channels_s if unequal else channels_t
            neck = PyramidAdapter(channels_s, adapted, adapter)
            for name, module in modules.items():
                with under(f'losses.{name}', options_of(type(module))[0]):
                    module.bind(PyramidSpec(self.strides, adapted, channels_t, name))
            ratios = {name: weight for name, weight in weights.items() if isinstance(weight, GradientRatio)}
            self.distill = Distillation(neck, modules, ratios)
        self._loss_weights: dict[str, float] = {name: x for name, x in weights.items() if name not in ratios}
        self._loss_factors = dict.fromkeys(weights, 1.0)
        for name, weight in self._loss_weights.items():
            if weight == 0:
                self.distill.losses[name].requires_grad_(False)
        if not ratios and not any(self._loss_weights.values()):
            self.distill.requires_grad_(False)
        self.init_student = init_student
        self.skipped_strides = tuple(sorted({*student_strides, *frozen.strides} - {*self.strides}))
        convolutions = sum(isinstance(level, nn.Conv2d) for level in neck.levels)
        print_log(
            f'GraphDistiller: {type(student_model).__name__}.{self._tap} <- '
            f'{type(frozen.model).__name__}.{frozen.tap}; strides paired {self.strides}, '
            f'skipped {self.skipped_strides}; {convolutions} of {len(self._pairs)} levels adapted; losses '
            + ', '.join(
                f'{name} (gradient ratio {weight.ratio:g})' if name in ratios else f'{name} (weight {weight:g})'
                for name, weight in weights.items()
            ),
            logger='current',
        )

    # ---------------------------------------------------------------- the student, under its own names

    def _adopt(self, student: nn.Module) -> None:
        """Register the student's children, parameters and buffers here; keep the student itself outside."""
        for name in _RESERVED:
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

    @property
    def teacher(self) -> FrozenTeacher:
        """The frozen teacher."""
        return self.__dict__['_teacher']

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith('_') or '_student' not in self.__dict__:
                raise
            return getattr(self.__dict__['_student'], name)

    def train(self, mode: bool = True) -> GraphDistiller:
        """Set the training mode of student and adapters; the teacher stays in eval mode."""
        super().train(mode)
        self.student.train(mode)
        return self

    def _apply(self, fn: Callable, recurse: bool = True) -> GraphDistiller:
        super()._apply(fn, recurse)
        for own, theirs in ((self._parameters, self.student._parameters), (self._buffers, self.student._buffers)):
            theirs.update((name, own[name]) for name in theirs)
        self.teacher.apply_(fn)
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Let the student read its names: detectors translate those of related checkpoints here (RPN, two-stage)."""
        unknown: list[str] = []
        self.student._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unknown, error_msgs
        )
        unexpected_keys += [key for key in unknown if not key.startswith(f'{prefix}distill.')]

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
        try:
            with weights_only():
                self.student.init_weights()
                with preserved_rng():
                    self.distill.init_weights()
        except UnpicklingError as error:
            files = ' or '.join(_pretrained(self)) or "a file of the student's init_cfg"
            raise ValueError(
                f'{files} was not read: {refusal(error)}. Reading such a file can run code that is in it; accepted: '
                f'tensors, plain containers and the logs of mmengine. {HOW_TO_TRUST}'
            ) from error
        if self.init_student == 'teacher':
            self._inherit()
        elif self.init_student is not None:
            load_weights(self.student, self.init_student, 'init_student')
        self._is_init = True

    def _inherit(self) -> None:
        source, target = self.teacher.model.state_dict(), self.student.state_dict()
        inherited = {
            key: value
            for key, value in source.items()
            if not key.startswith('backbone.') and key in target and target[key].shape == value.shape
        }
        if not inherited:
            raise ValueError(
                "init_student='teacher': no weight outside the backbone has the same name and shape in "
                f'{type(self.student).__name__} and {type(self.teacher.model).__name__}; accepted: None, a checkpoint '
                'of the student, or a teacher that shares its neck or head'
            )
        self.student.load_state_dict(inherited, strict=False)
        others = sum(not key.startswith('backbone.') for key in target)
        print_log(f'init_student: {len(inherited)} of {others} neck and head weights inherited', logger='current')

    # ---------------------------------------------------------------- one batch

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict[str, Any]:
        """The student's own losses and the distillation terms.

        Args:
            batch_inputs: (N, C, H, W), normalised for the student.
            batch_data_samples: the batch's ``DetDataSample`` list.

        Returns:
            The student's dict, plus ``loss_kd.<name>.<term>`` per term: weighted, but for the terms that train the
            loss's own network (``PyramidLoss.own_terms``). Terms of a loss of weight 0 come as ``kd.<name>.<term>`` and
            do not count. While a weight is measured, ``kd.<name>.gradient_ratio`` says how many times the task losses'
            gradient that of the unweighted loss is. A loss whose factor is 0 (see :meth:`set_loss_factor`) is not
            computed, and without any loss the teacher does not run.

        Raises:
            ValueError: if a weight is to be measured and cannot be.
        """
        to_measure = []
        if self.training and torch.is_grad_enabled():
            to_measure = [n for n, weight in self.distill.weights.items() if weight.measuring and self._loss_factors[n]]
        # A compiled graph gives no gradient at features in its middle, and none twice.
        run = torch.compiler.disable(self._losses) if to_measure else self._losses
        return run(batch_inputs, batch_data_samples, to_measure)

    def _losses(self, batch_inputs: Tensor, batch_data_samples: list, to_measure: Sequence[str]) -> dict[str, Any]:
        learning = self.training and torch.is_grad_enabled()
        active = [name for name, factor in self._loss_factors.items() if factor]
        if not active:
            losses = dict(self.student.loss(batch_inputs, batch_data_samples))
            return {**losses, **self._idle(())} if learning else losses
        task, features, (student, teacher), context = self.observe(batch_inputs, batch_data_samples)
        weights = {name: self.loss_weight(name) for name in active}
        trained = [name for name in active if weights[name] or name in to_measure]
        losses = dict(task)
        if trained:
            adapted = self.distill.adapter(student)
            terms = {name: check_terms(self.distill.losses[name](adapted, teacher, context), name) for name in trained}
            if to_measure:
                losses.update(self._measure(weights, task, {name: terms[name] for name in to_measure}, features))
            for name in trained:
                weight, own = weights[name] * self._loss_factors[name], self.distill.losses[name].own_terms
                for term, value in terms[name].items():
                    losses[f'loss_kd.{name}.{term}'] = value if term in own else value * weight
        if len(trained) < len(active):
            # What they draw leaves the student's random numbers as they are.
            with preserved_rng(), torch.no_grad():
                adapted = self.distill.adapter(student)
                for name in active:
                    if name not in trained:
                        terms = check_terms(self.distill.losses[name](adapted, teacher, context), name)
                        losses.update((f'kd.{name}.{term}', value) for term, value in terms.items())
        if learning:
            losses.update(self._idle(trained))
        return losses

    def parse_losses(self, losses: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The total and what is logged; ``kd.…`` is logged alone, even where a name in it contains ``loss``."""
        total, values = super().parse_losses({k: v for k, v in losses.items() if not k.startswith('kd.')})
        return total, {**values, **{k: v.mean() for k, v in losses.items() if k.startswith('kd.')}}

    def observe(
        self, batch_inputs: Tensor, batch_data_samples: list
    ) -> tuple[dict[str, Any], list[Tensor], tuple[tuple[Tensor, ...], tuple[Tensor, ...]], DistillContext]:
        """Run student and teacher on one batch.

        Returns:
            The student's own losses; its paired levels as the tap gives them, (N, C_l, H_l, W_l); the pyramids
            (student, teacher), cropped to their common cells and not adapted yet; the batch's context.
        """
        teacher = self._teacher_pyramid(batch_inputs, batch_data_samples)
        with recorded(self.student.get_submodule(self._tap)) as outputs:
            losses = self.student.loss(batch_inputs, batch_data_samples)
        pyramid = as_pyramid(outputs[-1], 'taps.student')
        features = [pyramid[i] for i, _ in self._pairs]
        student, teacher = self._align(features, teacher)
        # Some backbones give several maps per image in training, one for each of their branches (TridentNet).
        branches = len(student[0]) // len(teacher[0])
        if branches > 1:
            teacher = tuple(t.repeat(branches, 1, 1, 1) for t in teacher)
        context = DistillContext(
            data_samples=list(batch_data_samples) * max(branches, 1),
            strides=self.strides,
            batch_shape=tuple(batch_inputs.shape[-2:]),
        )
        return losses, features, (student, teacher), context

    # ---------------------------------------------------------------- weights of losses

    def set_loss_factor(self, name: str, factor: float) -> None:
        """Multiply a loss's weight from now on; :class:`~mmkd_graph.hooks.LossScheduleHook` does so in every iteration.

        Args:
            name: the loss's key under ``losses``.
            factor: a finite number >= 0; with 0 the loss is not even computed.

        Raises:
            ValueError: for an unknown name or another factor.
        """
        if name not in self._loss_factors:
            raise ValueError(f'no loss {name!r}; accepted: {", ".join(map(repr, self._loss_factors))}')
        check_number(f'factor of model.losses.{name}', factor)
        self._loss_factors[name] = float(factor)

    def check_taps_take_gradients(self, features: Sequence[Tensor], key: str) -> None:
        """Raise ``ValueError``, naming ``key``, if no tapped feature takes a gradient."""
        if not any(x.requires_grad for x in features):
            raise ValueError(
                f'{key}: the tapped student features take no gradient, as everything up to taps.student={self._tap!r} '
                'is frozen; accepted: a tap behind something that is trained, or a number as loss_weight'
            )

    def loss_weight(self, name: str) -> float:
        """The weight of a loss as it is known by now, without its schedule; 0 while it is not measured."""
        return (self.distill.weights[name].value or 0.0) if name in self.distill.weights else self._loss_weights[name]

    def _measure(
        self,
        weights: dict[str, float],
        task: Mapping[str, Any],
        losses: Mapping[str, Mapping[str, Tensor]],
        features: list[Tensor],
    ) -> dict[str, Tensor]:
        """Write this pass's weights of ``losses`` into ``weights``; returns what is to be logged."""
        for name in losses:
            self.check_taps_take_gradients(features, f'model.losses.{name}.loss_weight')
        # the class's own: what a hook puts around the instance's is meant for the whole of the losses
        task_norm = gradient_norm(type(self).parse_losses(self, task)[0], features)
        logged = {}
        for name, terms in losses.items():
            norm = gradient_norm(sum(terms.values()), features)
            weights[name] = self.distill.weights[name].observe(task_norm, norm)
            if task_norm > 0:
                logged[f'kd.{name}.gradient_ratio'] = torch.tensor(norm / task_norm, device=features[0].device)
        return logged

    def _idle(self, trained: Sequence[str]) -> dict[str, Tensor]:
        """An exact zero on all parameters that this pass leaves out: DDP waits for the gradient of each one."""
        modules = [loss for name, loss in self.distill.losses.items() if name not in trained]
        if not trained:
            modules.append(self.distill.adapter)
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        # The sum of no element: zero, with zeros as gradient, whatever the values.
        return {'loss_kd.idle': sum(p.flatten()[:0].sum() for p in parameters)} if parameters else {}

    def predict(self, batch_inputs: Tensor, batch_data_samples: list, **kwargs: Any) -> list:
        """The student's own predictions."""
        return self.student.predict(batch_inputs, batch_data_samples, **kwargs)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: list | None = None) -> Any:
        return self.student._forward(batch_inputs, batch_data_samples)

    def extract_feat(self, batch_inputs: Tensor) -> Any:
        """The student's own features."""
        return self.student.extract_feat(batch_inputs)

    @torch.no_grad()
    def pyramids(
        self, inputs: Tensor, data_samples: list
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[int, ...]]:
        """Paired pyramids of a preprocessed batch in eval mode: (adapted student, teacher, strides in pixels)."""
        training = self.training
        self.eval()
        try:
            with recorded(self.student.get_submodule(self._tap)) as outputs:
                self.student.extract_feat(inputs)
            student = as_pyramid(outputs[-1], 'taps.student')
            teacher = self._teacher_pyramid(inputs, data_samples)
            student, teacher = self._align([student[i] for i, _ in self._pairs], teacher)
            return self.distill.adapter(student), teacher, self.strides
        finally:
            self.train(training)

    def teacher_inputs(self, inputs: Tensor, data_samples: Sequence) -> Tensor:
        """What the teacher is given for a batch (N, C, H, W) that is normalised for the student."""
        shapes = [tuple(sample.metainfo.get('img_shape', inputs.shape[-2:]))[:2] for sample in data_samples]
        return self._transfer(inputs, shapes)

    def _teacher_pyramid(self, inputs: Tensor, data_samples: Sequence) -> list[Tensor]:
        pyramid = self.teacher(self.teacher_inputs(inputs, data_samples))
        return [pyramid[j] for _, j in self._pairs]

    @staticmethod
    def _align(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Crop the cells that only one side has: other padding adds cells at the bottom and right alone."""
        pairs = []
        for s, t in zip(student, teacher, strict=True):
            h, w = min(s.shape[-2], t.shape[-2]), min(s.shape[-1], t.shape[-1])
            pairs.append((s[..., :h, :w], t[..., :h, :w]))
        return tuple(s for s, _ in pairs), tuple(t for _, t in pairs)


def _pretrained(model: nn.Module) -> list[str]:
    """The files and addresses that modules of the student are initialised from, with their keys."""
    found = []
    for name, module in model.named_modules():
        given = getattr(module, 'init_cfg', None) or ()
        for config in [given] if isinstance(given, Mapping) else given:
            if type_name(config.get('type')) in ('Pretrained', 'PretrainedInit'):
                found.append(f'student.{name}.init_cfg.checkpoint={config.get("checkpoint")!r}'.replace('..', '.'))
    return found


def _check_keys(student: Any, others: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for keys that a distiller does not have; first for those that are the detector's."""
    others = {key: value for key, value in others.items() if value is not None}
    detectors = [key for key in others if key == 'backbone' or (isinstance(student, Mapping) and key in student)]
    if 'backbone' in detectors or len(detectors) > 1:
        raise ValueError(
            f"model needs _delete_=True: the detector's own keys ({', '.join(sorted(detectors))}) were inherited into "
            "it; write model = dict(_delete_=True, type='mmkd_graph.GraphDistiller', student={{_base_.model}}, …)"
        )
    for key in others:
        if key == 'data_preprocessor':
            continue
        if key == 'init_cfg':
            raise ValueError(f'model.{key} has no meaning on a GraphDistiller; set model.student.{key}')
        hint = f'; if it is meant for the detector, set model.student.{key}' if key in detectors else ''
        raise ValueError(f'model.{key} is unknown{near(key, _OPTIONS)}; accepted: {", ".join(_OPTIONS)}{hint}')


def _with_preprocessor(student: Any, others: Mapping[str, Any]) -> Any:
    """The student with a config's ``data_preprocessor`` beside its ``model``, which mmengine's runner hands over.

    As in mmengine the model's own comes first.
    """
    given = others.get('data_preprocessor')
    if given is None or not isinstance(student, Mapping):
        return student
    own = student.get('data_preprocessor')
    if own is None:
        return dict(student, data_preprocessor=given)
    if own != given:
        print_log(
            "data_preprocessor, beside the config's model, is another one than model.student.data_preprocessor: the "
            "student's counts",
            logger='current',
            level=30,
        )
    return student


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


def _pair_levels(student: Sequence[int], teacher: Sequence[int], wanted: Sequence[int] | None) -> list[tuple[int, int]]:
    """Indices (student, teacher) of levels of equal stride, finest first; equal strides pair in order."""
    if wanted is not None and not (
        isinstance(wanted, Sequence) and wanted and all(isinstance(stride, int) for stride in wanted)
    ):
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


def _build_losses(losses: Any) -> tuple[dict[str, PyramidLoss], dict[str, float | GradientRatio]]:
    example = "dict(crg=dict(type='mmkd_graph.CRGLoss', loss_weight=1.0))"
    if isinstance(losses, Mapping) and not isinstance(losses.get('type', {}), Mapping):
        given = ', '.join(f'{key}={losses[key]!r}' for key in ('type', *sorted(set(losses) - {'type'})))
        raise ValueError(f'losses: a name is missing before its type; write losses=dict(kd=dict({given}))')
    if not isinstance(losses, Mapping) or not losses:
        raise ValueError(f'losses={losses!r}; accepted: {example}')
    modules, weights, taken = {}, {}, ModuleDict()
    for name, config in losses.items():
        if not isinstance(name, str) or not name.isidentifier() or hasattr(taken, name):
            raise ValueError(
                f'losses[{name!r}]: the name becomes part of log and checkpoint keys; accepted: identifiers that '
                "torch's ModuleDict does not use itself"
            )
        key = f'losses.{name}'
        if not isinstance(config, Mapping) or 'type' not in config:
            raise ValueError(f"{key}={config!r}; accepted: dict(type='mmkd_graph.CRGLoss', …)")
        config = current_config(config, key)
        weights[name] = _build_weight(name, config.pop('loss_weight', 1.0))
        known = [kind for kind, value in MODELS.module_dict.items() if _is_loss(value)]
        own = (
            ', or a subclass of mmkd_graph.losses.PyramidLoss that a module named by custom_imports registers in MODELS'
        )
        config['type'] = kind = find_class(MODELS, config['type'], key, known, own)
        if not _is_loss(kind):
            raise ValueError(
                f'{key}.type={getattr(kind, "__name__", kind)!r} is no distillation loss, as it is not derived from '
                f'mmkd_graph.losses.PyramidLoss; accepted: {", ".join(sorted(known))}{own}'
            )
        modules[name] = _build_loss(kind, config, key)
    return modules, weights


def _is_loss(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, PyramidLoss)


def _build_loss(kind: type[PyramidLoss], config: Mapping[str, Any], key: str) -> PyramidLoss:
    check_options(kind, config, key)
    forgotten = f'{key}: {kind.__name__} does not call super().__init__() first in its own __init__'
    with under(key, options_of(kind)[0]):
        try:
            module = MODELS.build(config)
        except AttributeError as error:  # torch's own, of a module that is assigned before
            if '__init__() call' not in str(error):
                raise
            raise ValueError(forgotten) from error
        if '_parameters' not in vars(module) or not hasattr(module, 'init_cfg'):
            raise ValueError(forgotten)
    return module


def _build_weight(name: str, weight: Any) -> float | GradientRatio:
    key = f'losses.{name}.loss_weight'
    accepted = "accepted: a finite number >= 0, or dict(type='mmkd_graph.GradientRatio', ratio=…)"
    if isinstance(weight, Mapping) and 'type' in weight:
        kind = find_class(MODELS, weight['type'], key, ['GradientRatio'])
        if kind is GradientRatio:
            check_options(kind, weight, key)
            with under(key, options_of(kind)[0]):
                built = MODELS.build(dict(weight, type=kind))
            built.bind(name)
            return built
    elif isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 <= weight < math.inf:
        return float(weight)
    raise ValueError(f'{key}={weight!r}; {accepted}')
