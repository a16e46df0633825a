"""What training adds to the student: adapters, losses and their weights."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from mmengine.model import BaseModule, ModuleDict
from torch import Tensor

from mmkd_graph.losses.base import DistillLoss, HeadLoss, PyramidLoss, PyramidSpec, attached_zero, check_terms
from mmkd_graph.losses.names import current_config
from mmkd_graph.necks import PyramidAdapter
from mmkd_graph.registry import MODELS

from .gradient_norms import gradient_norm, task_loss
from .gradient_ratio import GradientRatio, LossWeight
from .heads import Heads
from .keys import build, find_class, options_of, under
from .pyramids import PyramidPair, Pyramids
from .rng import preserved_rng


class Objective(BaseModule):
    """The distillation terms of a batch. Lives under ``distill.`` in checkpoints.

    Args:
        losses: config of the losses by name, see :class:`~mmkd_graph.distillers.GraphDistiller`.
        pyramids: whose paired levels they compare.
        adapter: mode of the :class:`~mmkd_graph.necks.PyramidAdapter`; with ``'never'`` widths may differ if every
            loss takes that. Where no loss compares pyramids, nothing is adapted.

    Attributes:
        adapter: brings the student's levels to the teacher's widths.
        heads: of the detectors, if a loss compares them.
        losses: modules by name.
        weights: of the losses, by name.

    Raises:
        TypeError, ValueError: naming the key under ``model`` and what is accepted.
    """

    def __init__(self, losses: Mapping[str, Mapping], pyramids: Pyramids, adapter: str = 'auto') -> None:
        super().__init__()
        built = _build_losses(losses)
        featured = [name for name, (loss, _) in built.items() if isinstance(loss, PyramidLoss)]
        unequal = not featured or (adapter == 'never' and all(built[name][0].any_width for name in featured))
        adapted = pyramids.student_channels if unequal else pyramids.teacher_channels
        mode = 'auto' if adapter == 'always' and not featured else adapter
        self.adapter = PyramidAdapter(pyramids.student_channels, adapted, mode)
        self.heads: Heads | None = None
        self.losses = ModuleDict({name: loss for name, (loss, _) in built.items()})
        self.weights = ModuleDict({name: weight for name, (_, weight) in built.items()})
        for name, loss in self.losses.items():
            with under(f'losses.{name}', options_of(type(loss))[0]):
                if isinstance(loss, HeadLoss):
                    self.heads = self.heads or Heads(pyramids)
                    loss.bind(self.heads.spec(loss, name))
                else:
                    loss.bind(PyramidSpec(pyramids.strides, adapted, pyramids.teacher_channels, name))
            if self.weights[name].value == 0:
                loss.requires_grad_(False)
        if all(self.weights[name].value == 0 for name in featured):
            self.adapter.requires_grad_(False)

    @property
    def active(self) -> list[str]:
        """Names of the losses that are computed: those whose factor is not 0."""
        return [name for name, weight in self.weights.items() if weight.factor]

    @property
    def measuring(self) -> list[str]:
        """Names of the losses whose weight is measured in the next training pass."""
        learning = self.training and torch.is_grad_enabled()
        return [name for name in self.active if self.weights[name].measuring] if learning else []

    @property
    def tap_bound(self) -> list[str]:
        """Names of the losses that train nothing, or cannot be weighted, where no gradient reaches the tapped features.

        Heads are behind them, so a loss of heads of known weight still trains those.
        """
        return [
            name
            for name, weight in self.weights.items()
            if weight.value is None or (weight.value and not isinstance(self.losses[name], HeadLoss))
        ]

    def forward(self, pair: PyramidPair, task: Mapping[str, Any]) -> dict[str, Any]:
        """The terms of the active losses, of a batch whose own losses of the student are ``task``.

        Returns:
            Weighted terms ``loss_kd.<name>.<term>``; under ``kd`` a dict of what is logged alone, ``<name>.<term>``.

        Raises:
            ValueError: if a weight is to be measured and cannot be.
        """
        measured = self.measuring
        weights = {name: self.weights[name].value or 0.0 for name in self.active}
        trained = [name for name, weight in weights.items() if weight or name in measured]
        watched = [name for name in weights if name not in trained]
        with torch.set_grad_enabled(torch.is_grad_enabled() and bool(trained)):
            adapted = self.adapter(pair.student)
        terms = {name: self.terms(name, adapted, pair) for name in trained}
        logged: dict[str, Tensor] = {}
        if measured:
            weights |= self._measure({name: terms[name] for name in measured}, pair, task, logged)
        if watched:
            # What they draw leaves the student's random numbers as they are.
            with preserved_rng(), torch.no_grad():
                for name in watched:
                    logged.update((f'{name}.{term}', x) for term, x in self.terms(name, adapted, pair).items())
        found: dict[str, Any] = {}
        for name in trained:
            weight, own = weights[name] * self.weights[name].factor, self.losses[name].own_terms
            for term, value in terms[name].items():
                found[f'loss_kd.{name}.{term}'] = value if term in own else value * weight
        return {**found, **self.idle(trained), **({'kd': logged} if logged else {})}

    def idle(self, trained: Collection[str] = ()) -> dict[str, Tensor]:
        """An exact zero on all parameters that this pass leaves out: DDP waits for the gradient of each one."""
        if not (self.training and torch.is_grad_enabled()):
            return {}
        modules = [loss for name, loss in self.losses.items() if name not in trained]
        if not any(isinstance(self.losses[name], PyramidLoss) for name in trained):
            modules.append(self.adapter)
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        return {'loss_kd.idle': attached_zero(parameters)} if parameters else {}

    def terms(self, name: str, adapted: tuple[Tensor, ...], pair: PyramidPair) -> dict[str, Tensor]:
        """The unweighted terms of one loss, given the student's adapted levels."""
        loss = self.losses[name]
        if isinstance(loss, HeadLoss):
            with under(f'model.losses.{name}', ()):
                sides = pair.heads.compared(loss)
            return check_terms(loss(*sides), name)
        return check_terms(loss(adapted, pair.teacher, pair.context), name)

    def _measure(
        self,
        losses: Mapping[str, Mapping[str, Tensor]],
        pair: PyramidPair,
        task: Mapping[str, Any],
        logged: dict[str, Tensor],
    ) -> dict[str, float]:
        """This pass's weights of ``losses``, given their terms; what is to be logged goes into ``logged``."""
        for name in losses:
            pair.check_gradients(f'model.losses.{name}.loss_weight')
        task_norm = gradient_norm(task_loss(task), pair.tapped)
        weights = {}
        for name, terms in losses.items():
            norm = gradient_norm(sum(terms.values()), pair.tapped)
            weights[name] = self.weights[name].observe(task_norm, norm)
            if task_norm > 0:
                logged[f'{name}.gradient_ratio'] = torch.tensor(norm / task_norm, device=pair.tapped[0].device)
        return weights


def _build_losses(losses: Any) -> dict[str, tuple[DistillLoss, LossWeight]]:
    example = "dict(crg=dict(type='mmkd_graph.CRGLoss', loss_weight=1.0))"
    if isinstance(losses, Mapping) and not isinstance(losses.get('type', {}), Mapping):
        given = ', '.join(f'{key}={losses[key]!r}' for key in ('type', *sorted(set(losses) - {'type'})))
        raise ValueError(f'losses: a name is missing before its type; write losses=dict(kd=dict({given}))')
    if not isinstance(losses, Mapping) or not losses:
        raise ValueError(f'losses={losses!r}; accepted: {example}')
    built, taken = {}, ModuleDict()
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
        weight = _build_weight(name, config.pop('loss_weight', 1.0))
        built[name] = (_build_loss(config, key), weight)
    return built


def _build_loss(config: dict[str, Any], key: str) -> DistillLoss:
    known = [name for name, value in MODELS.module_dict.items() if _is_loss(value)]
    own = ', or a subclass of mmkd_graph.losses.PyramidLoss or HeadLoss, registered in MODELS by custom_imports'
    kind = find_class(MODELS, config['type'], key, known, own)
    if not _is_loss(kind):
        raise ValueError(
            f'{key}.type={getattr(kind, "__name__", kind)!r} is no distillation loss, as it is not derived from '
            f'mmkd_graph.losses.PyramidLoss or HeadLoss; accepted: {", ".join(sorted(known))}{own}'
        )
    forgotten = ValueError(f'{key}: {kind.__name__} does not call super().__init__() first in its own __init__')
    try:
        module = build(MODELS, kind, config, key, beside=['loss_weight'])
    except AttributeError as error:  # torch's own, of a module that is assigned before
        if '__init__() call' not in str(error):
            raise
        raise forgotten from error
    if '_parameters' not in vars(module) or not hasattr(module, 'init_cfg'):
        raise forgotten
    return module


def _is_loss(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, (PyramidLoss, HeadLoss))


def _build_weight(name: str, weight: Any) -> LossWeight:
    key = f'losses.{name}.loss_weight'
    if isinstance(weight, Mapping) and 'type' in weight:
        kind = find_class(MODELS, weight['type'], key, ['GradientRatio'])
        if kind is GradientRatio:
            built = build(MODELS, kind, weight, key)
            built.bind(name)
            return built
    elif isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 <= weight < math.inf:
        return LossWeight(float(weight))
    raise ValueError(
        f"{key}={weight!r}; accepted: a finite number >= 0, or dict(type='mmkd_graph.GradientRatio', ratio=…)"
    )
