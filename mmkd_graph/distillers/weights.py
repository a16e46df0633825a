"""Weights from checkpoint files: read as weights only, all of them loaded, and none that is not finite."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any

import torch
from mmengine.dist import broadcast_object_list
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader, _load_checkpoint_to_model
from torch import Tensor, nn

from mmkd_graph.checkpoints import HOW_TO_TRUST, refusal, weights_only

from .missing import missing_weights

_NAMED_KEYS = 12
"""How many keys a message lists before it only counts them."""
_NAMED_SHAPES = 3
"""How many weights of another shape a message lists: the first line says in words what they have in common."""
_LEAST = 0.5
"""Share of the values of backbone and neck, or of all, without which a model is not the one that a checkpoint is of."""


def read_checkpoint(checkpoint: str, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights in a checkpoint file or URL, without a distiller's own (``distill.…``), and its ``meta``.

    Raises:
        MissingWeights: if a local file does not exist, or what an address names cannot be fetched.
        ValueError: if it cannot be read, holds no weights, or more than weights (which could run code).
    """
    try:
        with weights_only():
            content = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    except UnpicklingError as error:
        if 'GLOBAL' not in str(error):
            raise ValueError(f'{key}={checkpoint!r} could not be read: {refusal(error)}') from error
        raise not_read(f'{key}={checkpoint!r}', error) from error
    except Exception as error:  # pickle, zip and network errors have no common base
        if missing := missing_weights(error, key, checkpoint, key if key == 'checkpoint' else f'model.{key}'):
            raise missing from error
        raise ValueError(f'{key}={checkpoint!r} could not be read: {type(error).__name__}: {error}') from error
    state = content.get('state_dict', content) if isinstance(content, Mapping) else None
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f'{key}={checkpoint!r} holds no state_dict; accepted: a checkpoint saved by mmengine')
    meta = content.get('meta')
    return _renamed(state, _without_own), dict(meta) if isinstance(meta, Mapping) else {}


def not_read(file: str, error: UnpicklingError) -> ValueError:
    """The error for a file that holds more than weights."""
    return ValueError(
        f'{file} was not read: {refusal(error)}. Reading such a file can run code that is in it; accepted: tensors, '
        f'plain containers and the logs of mmengine. {HOW_TO_TRUST}'
    )


@dataclass(frozen=True)
class Loaded:
    """What is known of weights after they were loaded.

    Attributes:
        meta: the checkpoint's ``meta``; in it may be the class names, as ``dataset_meta`` or ``CLASSES``.
        mismatch: the weights that do not match, in words; empty if all do.
        prefix: what was taken off the names of the weights, with its dot; empty if nothing was.
    """

    meta: Mapping[str, Any]
    mismatch: str = ''
    prefix: str = ''


def load_weights(model: nn.Module, checkpoint: str, key: str, strict: bool = True) -> Loaded:
    """Load ``checkpoint`` into ``model``; by default every weight must be loaded and none be left over.

    A prefix under which all of the model's weights are (``architecture.``, ``module.``) is taken off, and the second
    set of weights that EMA hooks of mmdet 2 leave in a file (``ema_backbone_conv1_weight``) is left out; messages say
    so. Under the plain names are the averaged ones there: the hooks exchange the two before a checkpoint is saved.

    Args:
        model: the model to fill.
        checkpoint: path or URL.
        key: config key, for error messages.
        strict: raise on a missing, unexpected or misshapen weight instead of warning.

    Returns:
        See :class:`Loaded`.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_checkpoint`; ValueError on a mismatch, with the keys; whatever
            ``strict`` is, if less than half of backbone and neck would be loaded, if several prefixes fit, and if a
            weight is not finite.
    """
    state, meta = read_checkpoint(checkpoint, key)
    state = _without_doubles(model, state, f'{key}={checkpoint!r}')
    state, prefix = _without_prefix(model, state, f'{key}={checkpoint!r}')
    own = model.state_dict()
    bad = [k for k, x in state.items() if not _finite(x) and (k not in own or _finite(own[k]))]
    if bad:
        raise ValueError(
            f'{key}={checkpoint!r}: {len(bad)} of {len(state)} weights are NaN or infinite: {_listed(bad)}; '
            'accepted: finite ones (an older checkpoint of that training, perhaps)'
        )
    problem = [None]
    try:
        # mmengine's loader honours the version hooks by which mmdet reads its older checkpoints
        _load_checkpoint_to_model(model, state, strict=True)
    except RuntimeError as error:
        problem = [str(error)]
    # It tells the first rank alone that weights do not match; the others would wait for that one for ever.
    broadcast_object_list(problem)
    if problem[0] is None:
        print_log(f'{key}: all {len(state)} weights of {checkpoint} loaded', logger='current')
        return Loaded(meta, prefix=prefix)
    missing = [k for k in own if k not in state and 'num_batches_tracked' not in k]
    unexpected = [k for k in state if k not in own]
    differing = {k: (state[k], own[k]) for k in own if k in state and own[k].shape != state[k].shape}
    shapes = [
        f'{k}: {tuple(a.shape)} in the checkpoint, {tuple(b.shape)} in the model' for k, (a, b) in differing.items()
    ]
    message = (
        f'{key}={checkpoint!r} does not match the model {type(model).__name__} ({len(own)} keys).'
        f'{_widths(differing)}\n'
        f'  missing ({len(missing)}): {_listed(missing)}\n'
        f'  unexpected ({len(unexpected)}): {_listed(unexpected)}\n'
        f'  other shape ({len(shapes)}): {_listed(shapes, _NAMED_SHAPES)}'
    )
    if not (missing or unexpected or shapes):
        message += f'\n  {problem[0]}'
    body = {k: v for k, v in own.items() if re.match(r'(backbone|neck)\.', k)} or own
    found = sum(v.numel() for k, v in body.items() if k in state and state[k].shape == v.shape)
    total = sum(v.numel() for v in body.values())
    share = found / total if total else 1.0
    if share < _LEAST:
        message += f'\n  {share:.0%} of the values of backbone and neck would be loaded: it is of another model'
    if strict or share < _LEAST:
        allow = share >= _LEAST and key.startswith('teacher')
        raise ValueError(message + ('\n  To use it all the same, set teacher.strict=False.' if allow else ''))
    print_log(message, logger='current', level=30)
    return Loaded(meta, message, prefix)


def inherit(student: nn.Module, teacher: nn.Module) -> None:
    """Copy the teacher's weights outside of the backbone into the student where names and shapes agree.

    Source: the inheriting strategy of arXiv 2110.12724.

    Raises:
        ValueError: if none agrees.
    """
    target = student.state_dict()
    inherited = {
        key: value
        for key, value in teacher.state_dict().items()
        if not key.startswith('backbone.') and key in target and target[key].shape == value.shape
    }
    if not inherited:
        raise ValueError(
            "init_student='teacher': no weight outside the backbone has the same name and shape in "
            f'{type(student).__name__} and {type(teacher).__name__}; accepted: None, a checkpoint of the student, or '
            'a teacher that shares its neck or head'
        )
    student.load_state_dict(inherited, strict=False)
    others = sum(not key.startswith('backbone.') for key in target)
    print_log(f'init_student: {len(inherited)} of {others} neck and head weights inherited', logger='current')


def _without_doubles(model: nn.Module, state: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    """Without the second set that mmdet 2's EMA hooks register as buffers; names of the model itself stay."""
    own = model.state_dict()
    doubles = {'ema_' + k.replace('.', '_') for k in state} & {*state} - {*own}
    if not doubles:
        return state
    print_log(
        f'{what}: {len(doubles)} weights are there twice; those named ema_… are left out (in files of mmdet 2, the '
        'averaged weights are under the plain names)',
        logger='current',
    )
    return _renamed(state, lambda name: None if name in doubles else name)


def _without_prefix(model: nn.Module, state: dict[str, Tensor], what: str) -> tuple[dict[str, Tensor], str]:
    """The weights under the prefix that makes all of the model's fit, and that prefix; or all as they are.

    Where none does, and no weight fits without one, the prefix that makes more than half of them fit.

    Raises:
        ValueError: if there are several.
    """
    own = {k: v for k, v in model.state_dict().items() if 'num_batches_tracked' not in k}
    if not own or all(k in state for k in own):
        return state, ''
    asked = list(own)[:: max(len(own) // 8, 1)]
    prefixes = {k[: -len(end)] for end in asked for k in state if k.endswith(f'.{end}')}
    fits = {prefix: sum(prefix + k in state for k in own) for prefix in prefixes}
    fitting = [prefix for prefix, count in fits.items() if count == len(own)]
    fitting = [p for p in fitting if all(state[p + k].shape == v.shape for k, v in own.items())] or fitting
    if not fitting and fits and not any(k in state for k in own):
        # of another model perhaps: what differs is said under the model's own names
        most = max(fits.values())
        best = [prefix for prefix, count in fits.items() if count == most]
        fitting = best if len(best) == 1 and most > len(own) / 2 else []
    if not fitting:
        return state, ''
    if len(fitting) > 1:
        raise ValueError(
            f'{what} holds {len(fitting)} sets of weights that fit {type(model).__name__}, under '
            f'{", ".join(sorted(fitting))}; accepted: one. Keep the one that you mean (of semi-supervised trainings, '
            f'mmdet tests teacher.): torch.save({{k: v for k, v in torch.load(FILE, weights_only=True)["state_dict"]'
            f'.items() if k.startswith({sorted(fitting)[-1]!r})}}, NEW_FILE)'
        )
    prefix = fitting[0]
    others = sorted({k.split('.')[0] + '.' for k in state if not k.startswith(prefix)})
    print_log(
        f'{what}: {prefix!r} is taken off the names of its weights'
        + (f'; those under other names ({_listed(others)}) are left out' if others else ''),
        logger='current',
    )
    return _renamed(state, lambda name: _without_own(name[len(prefix) :]) if name.startswith(prefix) else None), prefix


def _without_own(name: str) -> str | None:
    return None if name.startswith('distill.') else name


def _renamed(state: Mapping[str, Tensor], name: Any) -> dict[str, Tensor]:
    """Weights under other names, None for none, with what torch knows of the versions of their modules."""
    renamed = OrderedDict((new, v) for k, v in state.items() if (new := name(k)) is not None)
    metadata = getattr(state, '_metadata', None)
    if metadata is not None:  # by path of a module
        paths = ((name(f'{path}.'), version) for path, version in metadata.items())
        renamed._metadata = OrderedDict((new.rstrip('.'), version) for new, version in paths if new is not None)
    return renamed


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _widths(differing: Mapping[str, tuple[Tensor, Tensor]]) -> str:
    """In words, the parts of a detector that have another number of channels in a checkpoint than in the model."""
    pairs: dict[str, set[tuple[int, int]]] = {}
    for name, (found, wanted) in differing.items():
        part = pairs.setdefault(name.partition('.')[0], set())
        if found.ndim and wanted.ndim and len(found) != len(wanted):
            part.add((len(found), len(wanted)))
    said = []
    for part, seen in pairs.items():
        if len(seen) == 1:
            found, wanted = next(iter(seen))
            unit = 'channels' if part in ('backbone', 'neck') else 'channels or outputs'
            said.append(f"the checkpoint's {part} has {found} {unit}, the config's {wanted}")
        elif len(ratios := {found / wanted for found, wanted in seen}) == 1:
            said.append(f"the checkpoint's {part} has {ratios.pop():g} times the channels of the config's")
    return f' {"; ".join(said)}.' if said else ''


def _listed(keys: Iterable[str], most: int = _NAMED_KEYS) -> str:
    keys = list(keys)
    if not keys:
        return 'none'
    more = f', … and {len(keys) - most} more' if len(keys) > most else ''
    return ', '.join(keys[:most]) + more
