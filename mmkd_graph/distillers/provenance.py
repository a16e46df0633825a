"""Which config a checkpoint was trained with, as its ``meta`` says, and what differs from the one that is given."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.model import BaseModule
from torch import nn

from mmkd_graph.registry import type_name

from .inputs import preprocessor_line
from .keys import typed

_LONGEST = 2_000_000
"""Characters of a config; the longest of mmdet's, with 13 thousand class names, has a tenth of that."""
_INSIDE = ('architecture', 'detector', 'student', 'model')
"""Keys of a model that wraps a detector."""
_BODY = ('backbone', 'neck')
"""What makes the features. Heads only predict."""
_UNSEEN = {
    'type',  # compared by itself
    # says where weights come from, and how they are trained
    *('init_cfg', 'pretrained', 'checkpoint', 'convert_weights', 'train_cfg', 'test_cfg', 'frozen_stages', 'norm_eval'),
    *('inplace', 'requires_grad', 'with_cp', 'use_checkpoint', 'act_checkpoint', 'momentum', 'zero_init_residual'),
    *('class_weight', 'assigner', 'sampler', 'num_classes', 'freeze', 'zero_init_offset', 'data_preprocessor'),
    # random in the training alone
    *('drop_path_rate', 'drop_rate', 'attn_drop_rate', 'dropout', 'attn_drop', 'proj_drop', 'ffn_drop', 'layer_drop'),
}
_STATISTICS = ('mean', 'std', 'bgr_to_rgb')
_ALIKE = dict.fromkeys(('BN2d', 'SyncBN', 'MMSyncBN', 'NaiveSyncBN', 'BatchNorm2d', 'SyncBatchNorm'), 'BN')
"""Normalisations that are the same in eval mode."""


class _Unknown:
    """A value that is not written out, or a default that no signature has: never a difference."""

    def __repr__(self) -> str:
        return '?'


_UNKNOWN = _Unknown()


@dataclass(frozen=True)
class Difference:
    """One key below ``model``, with its values in the checkpoint's config and in the given one.

    Features differ by what ``matters``; by the rest the padding or the heads do.
    """

    key: str
    trained: Any
    given: Any
    matters: bool

    def __str__(self) -> str:
        return f"{self.key}: {_short(self.trained)} in the checkpoint's config, {_short(self.given)} in teacher.config"


# ---------------------------------------------------------------- reading


def trained_config(meta: Mapping[str, Any]) -> dict[str, Any] | None:
    """The config in a checkpoint's ``meta`` (``cfg``; of mmdet 2 ``config``), None if there is none to be read.

    It is Python that somebody else wrote: assignments of literals and ``dict(…)`` are read, and nothing is run.

    Example:
        >>> trained_config(dict(cfg="model = dict(type='FCOS', neck=None)\\nx = open('x')"))
        {'model': {'type': 'FCOS', 'neck': None}, 'x': ?}
        >>> trained_config(dict(cfg='x = 3')), trained_config({})
        (None, None)
    """
    for name in ('cfg', 'config'):
        content = meta.get(name)
        content = _parsed(content) if isinstance(content, str) else content
        if isinstance(content, Mapping) and isinstance(content.get('model'), Mapping):
            return dict(content)
    return None


def _parsed(text: str) -> dict[str, Any] | None:
    if len(text) > _LONGEST:
        return None
    try:
        found = {}
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                found[node.targets[0].id] = _value(node.value)
        return found
    except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError):
        return None


def _value(node: ast.AST) -> Any:
    if isinstance(node, (ast.List, ast.Set)):
        return [_value(x) for x in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(x) for x in node.elts)
    if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
        return {key.value: _value(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        inner = [_value(x) for x in node.args]
        if all(isinstance(x, dict) for x in inner) and all(x.arg for x in node.keywords) and len(inner) < 2:
            return {**(inner[0] if inner else {}), **{x.arg: _value(x.value) for x in node.keywords}}
    if isinstance(node, ast.Name) and node.id in ('inf', 'nan'):
        return float(node.id)
    if isinstance(node, (ast.Name, ast.Attribute)):  # a class, as in mmdet's pure Python configs
        return ast.unparse(node)
    try:
        return ast.literal_eval(node)
    except (TypeError, ValueError):  # it does something
        return _UNKNOWN


def trained_line(trained: Mapping[str, Any] | None) -> str | None:
    """``data_preprocessor=dict(…)`` of a config, as text; None if it has none."""
    found = _preprocessing(trained) if trained else None
    if not found:
        return None
    return preprocessor_line(found['pad_size_divisor'], **{name: found[name] for name in _STATISTICS})


# ---------------------------------------------------------------- comparing


def differences(
    trained: Mapping[str, Any] | None, given: Mapping[str, Any], prefix: str = ''
) -> list[Difference] | None:
    """What of a detector's model differs between the config that its weights were trained with and another.

    Keys that change nothing of what a trained detector computes are left out, a key that is absent has its default,
    and what is not known is no difference.

    Args:
        trained: a whole config, see :func:`trained_config`.
        given: a model dict.
        prefix: what was taken off the names of the weights.

    Returns:
        Those of the features first; None if there is nothing to compare with.
    """
    model = _detector(trained, prefix) if trained else None
    if model is None or 'backbone' not in given:
        return None
    # Arguments of heads were renamed between mmdet 2 and 3.
    old = 'data_preprocessor' not in model and 'data_preprocessor' not in trained
    keys = [*_BODY, *sorted({*model, *given} - {*_BODY})]
    found = []
    for key in keys if not old else _BODY:
        if key in _BODY or (key in model and key in given):
            pairs = _compare(key, model.get(key), given.get(key))
            found += [Difference(*pair, matters=key in _BODY) for pair in pairs]
    before = _preprocessing({**trained, 'model': model})
    after = _preprocessing(dict(model=given))
    if before and after:
        found += [
            Difference(f'data_preprocessor.{name}', before[name], after[name], matters=name in _STATISTICS)
            for name in before
            if not _same(before[name], after[name])
        ]
    return sorted(found, key=lambda difference: not difference.matters)


def _detector(trained: Mapping[str, Any], prefix: str) -> Mapping[str, Any] | None:
    """The model dict of the detector in a config, whatever wraps it."""
    model = trained['model']
    for _ in range(4):
        if 'backbone' in model:
            return model
        ours = type_name(model.get('type')) == 'GraphDistiller'
        inside = ('student',) if ours else (*prefix.rstrip('.').split('.'), *_INSIDE)
        model = next((model[key] for key in inside if isinstance(model.get(key), Mapping)), {})
    return None


def _preprocessing(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Statistics, channel order and padding of a config; None if it does not say them."""
    model = config['model']
    found = model.get('data_preprocessor') or config.get('data_preprocessor')
    found = dict(found) if isinstance(found, Mapping) else {}
    if found.get('mean') is None:
        for _, node in typed([config.get('train_dataloader'), config.get('data')]):
            if type_name(node['type']) == 'Normalize':
                found.update(mean=node.get('mean'), std=node.get('std'), bgr_to_rgb=node.get('to_rgb', True))
            if 'pad_size_divisor' not in found and type_name(node['type']) == 'Pad' and node.get('size_divisor'):
                found['pad_size_divisor'] = node['size_divisor']
    if not found:
        return None
    return dict(
        mean=_statistic(found.get('mean')),
        std=_statistic(found.get('std')),
        bgr_to_rgb=bool(found.get('bgr_to_rgb') or found.get('rgb_to_bgr')),
        pad_size_divisor=found.get('pad_size_divisor', 1),
        pad_value=found.get('pad_value', 0),
    )


def _statistic(values: Any) -> Any:
    """A list; of one entry if all are the same."""
    if not isinstance(values, (list, tuple)):
        return values
    return list(values[:1]) if all(x == values[0] for x in values) else list(values)


def _compare(key: str, a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    """Keys, below and with ``key``, of two values that are not the same."""
    name = key.rpartition('.')[2]
    if name in _UNSEEN or name.startswith('loss'):
        return
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if 'type' in a and 'type' in b and not _same_kind(a['type'], b['type']):
            yield f'{key}.type', a['type'], b['type']
            return
        a, b = map(_current, (a, b))
        for name in sorted({*a, *b}, key=str):
            values = (x[name] if name in x else _default(x, name) for x in (a, b))
            yield from _compare(f'{key}.{name}', *values)
    elif _are_lists(a, b) and len(a) == len(b) and any(isinstance(x, Mapping) for x in (*a, *b)):
        for i, pair in enumerate(zip(a, b, strict=True)):
            yield from _compare(f'{key}[{i}]', *pair)
    elif not _same(a, b):
        yield key, a, b


def _current(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config with the words of mmdet 3: of mmdet 2's FPN, two options say where extra levels come from."""
    if config.get('add_extra_convs') is not True or 'extra_convs_on_inputs' not in config:
        return config
    where = 'on_input' if config['extra_convs_on_inputs'] else 'on_output'
    return {key: value for key, value in config.items() if key != 'extra_convs_on_inputs'} | {'add_extra_convs': where}


def _same(a: Any, b: Any) -> bool:
    if a is _UNKNOWN or b is _UNKNOWN or (_nothing(a) and _nothing(b)):
        return True
    if _are_lists(a, b):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=1e-6)
    return a == b or {repr(a), repr(b)} == {'True', "'on_input'"}  # of FPN's add_extra_convs


def _are_lists(*values: Any) -> bool:
    return all(isinstance(value, (list, tuple)) for value in values)


def _nothing(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, (str, list, tuple, Mapping)) and not value)


def _same_kind(a: Any, b: Any) -> bool:
    a, b = (_ALIKE.get(name, name) for name in map(type_name, (a, b)))
    return a == b or (_class(a) is not None and _class(a) is _class(b))


def _class(name: Any) -> Any:
    """The class that mmdet would build; nothing is imported for a name that comes out of a file."""
    registry = MMDET_MODELS
    while registry is not None:
        if name in registry.module_dict:
            return registry.module_dict[name]
        registry = registry.parent
    return None


def _default(config: Mapping[str, Any], name: str) -> Any:
    """What a key has that a config does not name."""
    if 'type' not in config:
        return None
    kind = _class(type_name(config['type']))
    if not inspect.isclass(kind):
        return _UNKNOWN
    for base in kind.__mro__:
        if base in (nn.Module, BaseModule, object) or '__init__' not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters
        if name in parameters:
            default = parameters[name].default
            return _UNKNOWN if default is inspect.Parameter.empty else default
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            break
    return _UNKNOWN


def _short(value: Any, most: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= most else f'{text[:most]}…'


# ---------------------------------------------------------------- image sizes


def image_scales(config: Mapping[str, Any] | None) -> tuple[float, float] | None:
    """The shortest and the longest of the short sides, in pixels, that a training's pipeline resizes images to.

    None if the config, a whole one of mmdet 2 or 3, does not say it.
    """
    sides: list[float] = []
    config = config or {}
    for _, node in typed([config.get('train_dataloader'), (config.get('data') or {}).get('train')]):
        if 'Resize' not in type_name(node['type']):
            continue
        scales = node.get('scale', node.get('scales', node.get('img_scale')))
        ratios = node.get('ratio_range') or (1.0, 1.0)
        if isinstance(scales, (int, float)) or (
            isinstance(scales, Sequence) and len(scales) == 2 and all(isinstance(x, (int, float)) for x in scales)
        ):
            scales = [scales]
        for scale in scales if isinstance(scales, (list, tuple)) else ():
            side = min(scale) if isinstance(scale, (list, tuple)) and scale else scale
            if isinstance(side, (int, float)):
                sides += [side * ratio for ratio in ratios]
    return (min(sides), max(sides)) if sides else None
