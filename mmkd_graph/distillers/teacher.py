"""The frozen teacher: built from a config, fully loaded, outside the student's module tree."""

from __future__ import annotations

import copy
import os.path as osp
from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from mmkd_graph.checkpoints import is_address
from mmkd_graph.packaged import command
from mmkd_graph.packaged import read_config as read_any
from mmkd_graph.registry import type_name

from .inputs import IMAGENET, normalised
from .keys import near
from .missing import MissingWeights
from .provenance import Difference, differences, trained_config, trained_line
from .rng import preserved_rng
from .taps import as_pyramid, default_tap, probe, recorded
from .weights import Loaded, load_weights


def read_config(config: str, key: str) -> Config:
    """The whole config at a local path or ``'mmdet::family/name.py'``, also of this package: ``'mmkd_graph::…'``.

    Raises:
        FileNotFoundError, ValueError: if it does not exist, cannot be read or holds no model; names the config ``key``.
    """
    try:
        whole = read_any(config)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'{key}={config!r}: no such config (working directory {osp.abspath(".")}); accepted: a path, '
            "'mmdet::family/name.py', a config dict or a model dict"
        ) from error
    except Exception as error:  # a config is Python: anything can be wrong in it
        raise ValueError(f'{key}={config!r} could not be read: {type(error).__name__}: {error}') from error
    if 'model' not in whole:
        raise ValueError(f'{key}={config!r} has no `model`')
    return whole


def resolve_model_config(config: Any, key: str) -> ConfigDict:
    """The model dict that a path (see :func:`read_config`), a whole config or a model dict stands for.

    A distiller's config stands for its student, so a distilled student can be a teacher.

    Raises:
        FileNotFoundError, TypeError, ValueError: naming the config ``key`` and what is accepted.
    """
    if isinstance(config, str):
        model = model_of(read_config(config, key))
    elif isinstance(config, (Mapping, Config)):
        model = model_of(config) if 'model' in config and 'type' not in config else config
    else:
        raise TypeError(
            f"{key} is a {type(config).__name__}; accepted: a path, 'mmdet::family/name.py', a config or model dict"
        )
    if 'type' not in model:
        raise ValueError(f'{key} has neither `type` nor `model`; its keys are {sorted(model)}')
    if type_name(model['type']) == 'GraphDistiller':
        student = with_preprocessor(model['student'], model.get('data_preprocessor'))
        return resolve_model_config(student, f'{key}.student')
    return ConfigDict(model)


def model_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model of a whole config, with the ``data_preprocessor`` beside it."""
    return with_preprocessor(config['model'], config.get('data_preprocessor'))


def with_preprocessor(model: Any, beside: Mapping[str, Any] | None) -> Any:
    """A model dict with the ``data_preprocessor`` beside it; as in mmengine's runner, the model's own comes first."""
    if not beside or not isinstance(model, Mapping) or 'data_preprocessor' in model:
        return model
    return {**model, 'data_preprocessor': beside}


def build_detector(config: Any, key: str) -> nn.Module:
    """The detector that a config value stands for, see :func:`resolve_model_config`.

    Raises:
        FileNotFoundError, TypeError, ValueError: as there; ValueError, with mmdet's reason, if it cannot be built.
    """
    model = resolve_model_config(config, key)
    try:
        return MMDET_MODELS.build(model)
    except Exception as error:  # a missing package, file or argument: constructors raise what they like
        reason = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        raise ValueError(
            f'{key}: {model["type"]} could not be built: {type(error).__name__}: {reason}; '
            'accepted: a model that mmdet itself builds here'
        ) from error


class FrozenTeacher:
    """A detector in eval mode and without gradient, that extracts features and may predict from them (:mod:`.heads`).

    It is a plain object that *holds* a module, so the module enters neither ``parameters()`` nor ``state_dict()``,
    optimizer or DDP buckets of the model that owns it. Copies of the owner (EMA) share it
    until they move to another device or type.

    Args:
        config: see :func:`resolve_model_config`.
        checkpoint: path or URL of its weights.
        tap: dotted path of the module whose output is the pyramid; default ``'neck'``, or ``'backbone'`` without one.
        strict: whether weights that are not given, missing, unexpected or misshapen are an error.

    Attributes:
        model: the whole detector, heads too.
        loaded: what is known of its weights; None if there are none.
        strict: as given.
        config: the whole config, empty if a model dict was given.
        dataset: its config's training data set, where a whole config was given.
        trained: the config that the checkpoint was trained with, as it says; None if it does not.
        differences: of that one's model and ``config``'s; None if they could not be compared.
        image_channels: of the images that it takes.

    Raises:
        FileNotFoundError, TypeError, ValueError: naming the key under ``teacher`` and what is accepted.
    """

    def __init__(self, config: Any, checkpoint: str | None = None, tap: str | None = None, strict: bool = True) -> None:
        path = config if isinstance(config, str) and '::' not in config else None
        if isinstance(config, str):
            config = read_config(config, 'teacher.config')
        self.strict = strict
        self._borrowed = False
        given = copy.deepcopy(resolve_model_config(config, 'teacher.config'))  # constructors change what they get
        with preserved_rng():
            self.model: nn.Module = build_detector(config, 'teacher.config')
        self.config: Mapping[str, Any] = config if 'type' not in config else {}
        self.dataset = (self.config.get('train_dataloader') or {}).get('dataset')
        if found := normalised(self.config):  # which the student's pipeline does not do for it
            first = found[0]
            raise ValueError(
                f'teacher.config normalises images in its data pipeline ({first.name} in {first.key}), and the '
                "teacher here gets what the student's preprocessor makes; accepted: mean and std in its model. Take "
                f'{first.name} out, and write into the model of teacher.config: {first.line}'
            )
        if not checkpoint and strict:
            raise ValueError(
                'teacher.checkpoint is missing: an untrained teacher teaches noise. Accepted: a path or URL of '
                f'weights for {type(self.model).__name__}; to go on without weights set teacher.strict=False'
            )
        self.loaded: Loaded | None = None
        if checkpoint:
            try:
                self.loaded = load_weights(self.model, checkpoint, 'teacher.checkpoint', strict)
            except MissingWeights as error:
                if path and not is_address(checkpoint):
                    scaled = ['--auto-scale-lr'] if 'base_batch_size' in (config.get('auto_scale_lr') or {}) else []
                    error.args = (f'{error.args[0]}; to train it: {command("train.py", path, *scaled)}',)
                raise
        else:
            print_log('teacher.checkpoint is missing: the teacher is UNTRAINED', logger='current', level=30)
        self.trained = trained_config(self.loaded.meta) if self.loaded else None
        self.model.eval()  # which gives nothing in mmdet's own distilling detectors
        self.model.requires_grad_(False)
        self.tap = tap or default_tap(self.model)
        self.strides, self.channels, self.image_channels = probe(self.model, self.tap, 'taps.teacher')
        if type(self.model.data_preprocessor).forward is BaseDataPreprocessor.forward:  # mmengine's, for want of one
            own = trained_line(self.trained)
            raise ValueError(
                'teacher.config has no model.data_preprocessor, and so how its images were normalised is not known; '
                'accepted: the one that it was trained with. Write into the model of teacher.config: '
                + (f'{own} (says its checkpoint)' if own else f'{IMAGENET}, if these are its numbers')
            )
        self.differences: list[Difference] | None = None
        if self.loaded:
            self.differences = differences(self.trained, given, self.loaded.prefix)
            if self.differences is None:
                message = 'it does not hold a config that could be compared with teacher.config'
                print_log(f'teacher.checkpoint: {message}', logger='current')
        for difference in self.differences or ():
            print_log(f'teacher.config: {difference}', logger='current', level=30)

    @classmethod
    def from_config(cls, teacher: Any, tap: str | None) -> FrozenTeacher:
        """Build from the config's ``teacher`` dict; its keys are checked."""
        accepted = ('config', 'checkpoint', 'strict')
        if not isinstance(teacher, Mapping):
            kind = type(teacher).__name__
            raise TypeError(f'teacher is a {kind}; accepted: dict with the keys {", ".join(accepted)}')
        for name in teacher:
            if name not in accepted:
                raise ValueError(f'teacher.{name} is unknown{near(name, accepted)}; accepted: {", ".join(accepted)}')
        if 'config' not in teacher:
            raise ValueError(
                "teacher.config is missing; accepted: a path, 'mmdet::family/name.py', a config or model dict"
            )
        return cls(**teacher, tap=tap)

    def __deepcopy__(self, memo: dict) -> FrozenTeacher:
        shared = copy.copy(self)
        shared._borrowed = True
        return shared

    def apply_(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Follow the owner's device and dtype (``nn.Module._apply``); a copy of the owner that moves takes its own."""
        if self._borrowed:
            if all(fn(tensor) is tensor for tensor in (*self.model.parameters(), *self.model.buffers())):
                return
            self.model = copy.deepcopy(self.model)
            self._borrowed = False
        self.model._apply(fn)

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """The tapped pyramid of (N, C, H, W) inputs: levels of shape (N, C_l, H_l, W_l)."""
        with recorded(self.model.get_submodule(self.tap)) as outputs:
            self.model.extract_feat(inputs)
        return as_pyramid(outputs[-1], 'taps.teacher')
