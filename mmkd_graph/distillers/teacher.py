"""The frozen teacher: built from a config, fully loaded, outside the student's module tree."""

from __future__ import annotations

import copy
import difflib
import os.path as osp
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import Config, ConfigDict
from mmengine.dist import broadcast_object_list
from mmengine.hub import get_config
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader, _load_checkpoint_to_model
from torch import Tensor, nn

from mmkd_graph.checkpoints import refusal, weights_only
from mmkd_graph.registry import type_name

from .rng import preserved_rng
from .taps import as_pyramid, default_tap, find_tap, probe, recorded

_NAMED_KEYS = 12
"""How many missing or unexpected keys a message lists before it only counts them."""


def read_config(config: str, key: str) -> Config:
    """The whole config at a path.

    Args:
        config: a local path, or ``'mmdet::family/name.py'``.
        key: config key, for error messages.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: if it can not be read or holds no model.
    """
    try:
        whole = get_config(config) if '::' in config else Config.fromfile(config)
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
    """The model dict that a config value stands for.

    Args:
        config: a path (local, or ``'mmdet::family/name.py'``), a whole config (its ``model`` is used) or a model
            dict. A distiller's config stands for its student, so a distilled student can be a teacher.
        key: config key, for error messages.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if there is no model in it.
        TypeError: if it is none of the accepted kinds.
    """
    if isinstance(config, str):
        model = read_config(config, key).model
    elif isinstance(config, (Mapping, Config)):
        model = config['model'] if 'model' in config and 'type' not in config else config
    else:
        raise TypeError(
            f"{key} is a {type(config).__name__}; accepted: a path, 'mmdet::family/name.py', a config or model dict"
        )
    if 'type' not in model:
        raise ValueError(f'{key} has neither `type` nor `model`; its keys are {sorted(model)}')
    if type_name(model['type']) == 'GraphDistiller':
        return resolve_model_config(model['student'], f'{key}.student')
    return ConfigDict(model)


def build_detector(config: Any, key: str) -> nn.Module:
    """The detector that a config value stands for, see :func:`resolve_model_config`.

    Raises:
        FileNotFoundError, TypeError: as :func:`resolve_model_config`.
        ValueError: as there, or if mmdet can not build the model; the message names ``key`` and mmdet's reason.
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


def read_checkpoint(checkpoint: str, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights in a checkpoint file or URL, without a distiller's own (``distill.…``), and its ``meta``.

    Raises:
        FileNotFoundError: if a local file does not exist.
        ValueError: if it can not be read, holds no weights, or more than weights (which could run code).
    """
    try:
        with weights_only():
            content = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{key}={checkpoint!r}: no such file (working directory {osp.abspath(".")})') from error
    except UnpicklingError as error:
        if 'GLOBAL' not in str(error):
            raise ValueError(f'{key}={checkpoint!r} could not be read: {refusal(error)}') from error
        raise ValueError(
            f'{key}={checkpoint!r} was not read: {refusal(error)}. Reading such a file can run code that is in it; '
            'accepted: tensors, plain containers and the logs of mmengine. If you trust where it comes from, make '
            'one of it with torch.save(torch.load(FILE, weights_only=False)["state_dict"], NEW_FILE)'
        ) from error
    except Exception as error:  # pickle, zip and network errors have no common base
        raise ValueError(f'{key}={checkpoint!r} could not be read: {type(error).__name__}: {error}') from error
    state = content.get('state_dict', content) if isinstance(content, Mapping) else None
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f'{key}={checkpoint!r} holds no state_dict; accepted: a checkpoint saved by mmengine')
    meta = content.get('meta')
    metadata = getattr(state, '_metadata', None)
    state = type(state)((k, v) for k, v in state.items() if not k.startswith('distill.'))
    if metadata is not None:
        state._metadata = metadata
    return state, dict(meta) if isinstance(meta, Mapping) else {}


@dataclass(frozen=True)
class Loaded:
    """What is known of weights after they were loaded.

    Attributes:
        meta: the checkpoint's ``meta``; in it may be the class names, as ``dataset_meta`` or ``CLASSES``.
        mismatch: the weights that do not match, in words; empty if all do.
    """

    meta: Mapping[str, Any]
    mismatch: str = ''


def load_weights(model: nn.Module, checkpoint: str, key: str, strict: bool = True) -> Loaded:
    """Load ``checkpoint`` into ``model``; by default every weight must be loaded and none be left over.

    Args:
        model: the model to fill.
        checkpoint: path or URL.
        key: config key, for error messages.
        strict: raise on a missing, unexpected or misshapen weight instead of warning.

    Returns:
        See :class:`Loaded`.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_checkpoint`; ValueError on a mismatch, with the keys.
    """
    state, meta = read_checkpoint(checkpoint, key)
    problem = [None]
    try:
        # mmengine's loader honours the version hooks by which mmdet reads its older checkpoints
        _load_checkpoint_to_model(model, state, strict=True)
    except RuntimeError as error:
        problem = [str(error)]
    # It tells the first rank alone that weights do not match; the others would wait for that one for ever.
    broadcast_object_list(problem)
    if problem[0] is not None:
        own = model.state_dict()
        missing = [k for k in own if k not in state and 'num_batches_tracked' not in k]
        unexpected = [k for k in state if k not in own]
        shapes = [
            f'{k}: {tuple(state[k].shape)} in the checkpoint, {tuple(own[k].shape)} in the model'
            for k in own
            if k in state and own[k].shape != state[k].shape
        ]
        message = (
            f'{key}={checkpoint!r} does not match the model {type(model).__name__} ({len(own)} keys).\n'
            f'  missing ({len(missing)}): {_listed(missing)}\n'
            f'  unexpected ({len(unexpected)}): {_listed(unexpected)}\n'
            f'  other shape ({len(shapes)}): {_listed(shapes)}'
        )
        if not (missing or unexpected or shapes):
            message += f'\n  {problem[0]}'
        if strict:
            allow = '\n  To use it all the same, set teacher.strict=False.' if key.startswith('teacher') else ''
            raise ValueError(message + allow)
        print_log(message, logger='current', level=30)
        return Loaded(meta, message)
    print_log(f'{key}: all {len(state)} weights of {checkpoint} loaded', logger='current')
    return Loaded(meta)


def _listed(keys: list[str]) -> str:
    if not keys:
        return 'none'
    more = f', … and {len(keys) - _NAMED_KEYS} more' if len(keys) > _NAMED_KEYS else ''
    return ', '.join(keys[:_NAMED_KEYS]) + more


class InputTransfer:
    """A batch normalised for the student, as the teacher's own preprocessor would have given it.

    Mean, standard deviation, channel order, padding value and size divisor may differ. The two normalisations
    compose to one affine map per channel, so nothing is decoded twice; padded pixels get the teacher's padding value.

    Args:
        student: the student's ``data_preprocessor``.
        teacher: the teacher's ``data_preprocessor``.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        mean_s, std_s = _normalisation(student)
        mean_t, std_t = _normalisation(teacher)
        self.flip = getattr(student, '_channel_conversion', False) != getattr(teacher, '_channel_conversion', False)
        if self.flip:
            mean_s, std_s = mean_s.flip(0), std_s.flip(0)
        self.scale = (std_s / std_t).view(1, -1, 1, 1)
        self.shift = ((mean_s - mean_t) / std_t).view(1, -1, 1, 1)
        self.pad_value = float(getattr(teacher, 'pad_value', 0))
        self.divisor = int(getattr(teacher, 'pad_size_divisor', 1))
        self.same_normalisation = (
            not self.flip
            and torch.allclose(self.scale, torch.ones_like(self.scale))
            and torch.allclose(self.shift, torch.zeros_like(self.shift), atol=1e-6)
        )
        self.same_padding = self.pad_value == float(getattr(student, 'pad_value', 0))

    def __call__(self, inputs: Tensor, image_shapes: list[tuple[int, int]]) -> Tensor:
        """Re-normalise (N, 3, H, W) inputs whose valid regions are ``image_shapes`` in pixels."""
        height, width = inputs.shape[-2:]
        if not self.same_normalisation or not self.same_padding:
            outputs = inputs.flip(1) if self.flip else inputs
            if not self.same_normalisation:
                outputs = outputs * self.scale.to(outputs) + self.shift.to(outputs)
            elif outputs is inputs:
                outputs = inputs.clone()
            for image, (h, w) in zip(outputs, image_shapes, strict=True):
                image[:, h:] = self.pad_value
                image[:, :, w:] = self.pad_value
            inputs = outputs
        bottom, right = -height % self.divisor, -width % self.divisor
        return F.pad(inputs, (0, right, 0, bottom), value=self.pad_value) if bottom or right else inputs


def _normalisation(preprocessor: nn.Module) -> tuple[Tensor, Tensor]:
    if not getattr(preprocessor, '_enable_normalize', False):
        return torch.zeros(3), torch.ones(3)
    mean, std = preprocessor.mean.detach().cpu().flatten(), preprocessor.std.detach().cpu().flatten()
    return mean.expand(3), std.expand(3)


class FrozenTeacher:
    """A detector that only ever extracts features, in eval mode and without gradient.

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
        dataset: its config's training data set, where a whole config was given.

    Raises:
        FileNotFoundError, TypeError, ValueError: naming the key under ``teacher`` and what is accepted.
    """

    def __init__(self, config: Any, checkpoint: str | None = None, tap: str | None = None, strict: bool = True) -> None:
        if isinstance(config, str):
            config = read_config(config, 'teacher.config')
        self.loaded: Loaded | None = None
        self._borrowed = False
        with preserved_rng():
            self.model: nn.Module = build_detector(config, 'teacher.config')
        self.dataset = (config.get('train_dataloader') or {}).get('dataset')
        if checkpoint:
            self.loaded = load_weights(self.model, checkpoint, 'teacher.checkpoint', strict)
        elif strict:
            raise ValueError(
                'teacher.checkpoint is missing: an untrained teacher teaches noise. Accepted: a path or URL of '
                f'weights for {type(self.model).__name__}; to go on without weights set teacher.strict=False'
            )
        else:
            print_log('teacher.checkpoint is missing: the teacher is UNTRAINED', logger='current', level=30)
        self.model.eval().requires_grad_(False)
        self.tap = tap or default_tap(self.model)
        self.strides, self.channels = probe(self.model, self.tap, 'taps.teacher')
        self._tapped = find_tap(self.model, self.tap, 'taps.teacher')

    @classmethod
    def from_config(cls, teacher: Any, tap: str | None) -> FrozenTeacher:
        """Build from the config's ``teacher`` dict.

        Raises:
            TypeError: if it is no dict.
            ValueError: if it has no ``config``, or an unknown key.
        """
        accepted = ('config', 'checkpoint', 'strict')
        if not isinstance(teacher, Mapping):
            raise TypeError(
                f'teacher is a {type(teacher).__name__}; accepted: dict with the keys {", ".join(accepted)}'
            )
        for name in teacher:
            if name not in accepted:
                near = difflib.get_close_matches(name, accepted, n=1)
                raise ValueError(
                    f'teacher.{name} is unknown; accepted: {", ".join(accepted)}'
                    + (f' (did you mean {near[0]!r}?)' if near else '')
                )
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
            self._tapped = find_tap(self.model, self.tap, 'taps.teacher')
            self._borrowed = False
        self.model._apply(fn)

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """The tapped pyramid of (N, 3, H, W) inputs: levels of shape (N, C_l, H_l, W_l)."""
        with recorded(self._tapped) as outputs:
            self.model.extract_feat(inputs)
        return as_pyramid(outputs[-1], 'taps.teacher')
