"""The plain student of a distillation, as files that mmdet reads without this package."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import mmengine
import numpy as np
from mmengine.config import Config
from mmengine.utils import get_object_from_string

from mmkd_graph.checkpoints import save_whole, write_whole
from mmkd_graph.datasets.metainfo import common_metainfo
from mmkd_graph.distillers.teacher import resolve_model_config
from mmkd_graph.plain import plain
from mmkd_graph.registry import type_name

_DROPPED = object()


def student_model(cfg: Config) -> dict[str, Any]:
    """The student's model dict of a distillation's config, of a plain one its model; classes are text.

    Raises:
        FileNotFoundError, TypeError, ValueError: if there is none in it.
    """
    whole = cfg.to_dict()
    parts = {key: whole[key] for key in ('model', 'data_preprocessor') if key in whole}
    return _as_text(resolve_model_config(parts, 'model'))


def student_config(cfg: Config) -> Config:
    """The config of the plain student in a distillation's config.

    Its model is the student. This package's parts are left out (hooks, guards) or give way to what they wrap (sampler,
    checkpoint hook), and what belongs to one run is (``work_dir``, ``load_from``, ``resume``, ``launcher``). Classes
    become text. What mmdet's inference needs is added where it is missing: test data (those of the validation), a
    visualizer and the scope.

    Args:
        cfg: a whole config, of a distillation or plain, as a file or a runner has it.

    Returns:
        A new config that can be dumped.

    Raises:
        FileNotFoundError, TypeError, ValueError: if there is no model in it.
    """
    whole = cfg.to_dict()  # without what a pure Python config only imports, and with the paths that it imports from
    for key in ('model', 'work_dir', 'model_wrapper_cfg'):
        whole.pop(key, None)
    plain = _plain_config(whole)
    plain.update(model=student_model(cfg), load_from=None, resume=False, launcher='none')
    plain['default_scope'] = plain.get('default_scope') or 'mmdet'
    for part in ('dataloader', 'evaluator', 'cfg'):
        if plain.get(f'test_{part}') is None and plain.get(f'val_{part}') is not None:
            plain[f'test_{part}'] = dict(type='TestLoop') if part == 'cfg' else plain[f'val_{part}']
    visualizer = dict(type='mmdet.DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
    plain['visualizer'] = plain.get('visualizer') or visualizer
    return Config(plain)


def export_student(checkpoint: Mapping[str, Any], cfg: Config, path: str | Path) -> Path:
    """Write the plain student: its weights, and its config beside them.

    ``path`` holds ``state_dict`` without adapters and losses, and ``meta`` with the text of the config (``cfg``), the
    classes (``dataset_meta``), ``epoch`` and ``iter``, all in plain containers: ``torch.load(weights_only=True)``,
    ``init_detector`` and ``DetInferencer(weights=path)`` read it.

    Args:
        checkpoint: what a checkpoint of the distillation holds: ``state_dict`` and ``meta``.
        cfg: the distillation's config.
        path: file to write, ``….pth``.

    Returns:
        The config's path: that of the weights, ending in ``.py``.

    Raises:
        OSError: if a file could not be written; nothing of it is left then.
        ValueError: for a ``path`` that ends in ``.py``.
    """
    path = Path(path)
    beside = path.with_suffix('.py')
    if path == beside:
        raise ValueError(f'path={str(path)!r} is where the config goes; accepted: a name that ends in .pth')
    content = student_checkpoint(checkpoint, cfg)
    save_whole(content, path)
    write_whole(content['meta']['cfg'].encode(), beside)
    return beside


def student_checkpoint(checkpoint: Mapping[str, Any], cfg: Config) -> dict[str, Any]:
    """What :func:`export_student` writes, ``state_dict`` and ``meta``; its arguments are the same."""
    state = OrderedDict((k, v) for k, v in checkpoint['state_dict'].items() if not k.startswith('distill.'))
    # versions of modules, by which torch and mmdet read older weights
    metadata = getattr(checkpoint['state_dict'], '_metadata', {})
    state._metadata = OrderedDict((k, v) for k, v in metadata.items() if k.split('.')[0] != 'distill')
    known = checkpoint.get('meta') or {}
    meta = {key: known[key] for key in ('epoch', 'iter') if key in known}
    meta.update(cfg=student_config(cfg).pretty_text, mmengine_version=mmengine.__version__)
    if known.get('dataset_meta') is not None:
        of_data = plain(common_metainfo(known['dataset_meta']))
        # arrays as lists: mmdet reads those as weights only, whatever its version
        meta['dataset_meta'] = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in of_data.items()}
    return dict(state_dict=state, meta=meta)


def needs(cfg: Config) -> list[str]:
    """What a plain student's config asks for beyond mmdet, by keys: parts of this package, and other imports.

    Example:
        >>> needs(Config(dict(model=dict(backbone=dict(type='mmkd_graph.EfficientNetLite'), neck=dict(type='FPN')))))
        ["mmkd_graph (model.backbone.type='mmkd_graph.EfficientNetLite')"]
    """
    found = [f'mmkd_graph ({key}={value!r})' for key, value in _ours_in(cfg.model, 'model')]
    imports = (cfg.get('custom_imports') or {}).get('imports') or []
    return found + [f'{name} (custom_imports)' for name in ([imports] if isinstance(imports, str) else imports)]


def _ours_in(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _ours_in(item, f'{key}.{name}')
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _ours_in(item, f'{key}[{i}]')
    elif key.endswith(('.type', '._scope_')) and _is_ours(value):
        yield key, value


def _plain_config(value: Any) -> Any:
    """A config's value without this package; ``_DROPPED`` if nothing is left."""
    if isinstance(value, Mapping):
        if _is_ours(value.get('type')):
            if type_name(value['type']) == 'SeededSampler':
                return _plain_config(value['sampler'])
            if type_name(value['type']) != 'SafeCheckpointHook':
                return _DROPPED
            value = {**value, 'type': 'CheckpointHook'}
        items = {key: _plain_config(item) for key, item in value.items()}
        return {key: item for key, item in items.items() if item is not _DROPPED}
    if isinstance(value, (list, tuple)):
        return type(value)(item for item in map(_plain_config, value) if item is not _DROPPED)
    return _DROPPED if _is_ours(value) else _as_text(value)


def _is_ours(value: Any) -> bool:
    """Whether a value names a class or a module of this package."""
    value = _as_text(value)
    return isinstance(value, str) and value.split('.')[0] == 'mmkd_graph'


def _as_text(value: Any) -> Any:
    """A config's value with names in the place of classes and functions."""
    if isinstance(value, Mapping):
        return {key: _as_text(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_as_text, value))
    if isinstance(value, str) and value.startswith('mmcv.ops.'):
        value = get_object_from_string(value) or value
    if not isinstance(value, (type, FunctionType)):
        return value
    if isinstance(value, FunctionType) and value.__module__.startswith('mmcv.ops.'):
        return value.__name__  # mmcv evaluates the name of a kind of nms among its own
    path = f'{value.__module__}.{value.__qualname__}'
    if get_object_from_string(path) is not value:  # a module that is hidden by a function of its name
        path = f'{path.split(".")[0]}.{value.__name__}'
    return path
