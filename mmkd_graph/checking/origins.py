"""What an exception of a runner is about: one line that begins with the config key."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import mmdet.registry
from mmengine.config import Config
from mmengine.registry import Registry

from mmkd_graph.datasets.reading import UnreadableImage
from mmkd_graph.distillers.keys import near, options_of, split_key
from mmkd_graph.findings import CheckFailed, one_line
from mmkd_graph.registry import HOOKS, MODELS, type_name

_BUILDERS = dict(
    build_model='model',
    _init_model_weights='model',
    build_visualizer='visualizer',
    build_optim_wrapper='optim_wrapper',
    build_param_scheduler='param_scheduler',
    register_default_hooks='default_hooks',
    register_custom_hooks='custom_hooks',
    build_train_loop='train_cfg',
    build_val_loop='val_cfg',
    build_test_loop='test_cfg',
)
"""Methods of a runner, and what in the config they build."""
_PARTS = dict(build_dataloader='dataloader', build_evaluator='evaluator')
"""Methods that loops call, and what in the config they build after the loop's name."""
_UNREGISTERED = re.compile(r'(\S+) is not in the \w+::(.+?) registry')
_UNEXPECTED = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")
_LESS = '; accepted: a model that mmdet itself builds here'
"""What a detector's build error ends with; what is found here says more."""
_ADVICE = re.compile(r'\. Please check whether the value of .*import-the-custom-module', re.DOTALL)


def config_error(error: Exception, cfg: Config) -> str | None:
    """What is wrong in ``cfg``, if ``error`` was raised while something of it was built or a hook prepared a training.

    Args:
        error: caught around a runner's constructor, ``train()``, ``val()`` or ``test()``.
        cfg: the runner's config.

    Returns:
        Key, what was found there, and the near names of what is misspelt; None of an error that comes from elsewhere:
        from a step, from a disk that is full, from a check that has its own words.
    """
    if isinstance(error, (CheckFailed, FloatingPointError, UnreadableImage)):
        return None
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        return None
    key = _key(error, cfg)
    if key == 'model' and not cfg.model.get('type'):
        return 'model.type is missing; accepted: a detector of mmdet, or mmkd_graph.GraphDistiller'
    return located(explained(error), cfg, key) if key else None


def located(message: str, cfg: Config, key: str) -> str:
    """Put the key before a message of :func:`explained`: its own, if it begins with one, or as exact as can be found.

    Args:
        message: type of an exception, colon, what it says.
        cfg: the whole config.
        key: what was being built.

    Example:
        >>> cfg = Config(dict(model=dict(type='RetinaNet', backbone=dict(type='ResNett'))))
        >>> located('KeyError: ResNett is not in the mmdet::model registry', cfg, 'model')
        'model.backbone.type: ResNett is not in the mmdet::model registry'
    """
    _, _, said = message.partition(': ')
    for pattern in (_UNREGISTERED, _UNEXPECTED):
        if found := pattern.search(message):
            option = found[2] if pattern is _UNEXPECTED else 'type'
            places = list(_places(cfg.get(key.partition('[')[0]), type_name(found[1]), option))
            if len(places) == 1 and '[' not in key:
                return f'{key}{places[0]}: {message[found.start() :]}'
    if re.match(r'model\b', said):
        return said
    hook = re.search(r'\((\w+)\)$', key)
    if hook and re.match(rf'{hook[1]}(\.|: )', said):  # this package's hooks begin with their own name
        return f'{key}: {said[len(hook[1]) :].lstrip(".: ")}'
    return f'{key}: {message}'


def model_error(error: Exception, cfg: Config) -> tuple[str, str]:
    """Key of what is wrong with the model of a whole config, and what is wrong there."""
    return split_key(located(explained(error), cfg, 'model'), 'model')


def _places(node: Any, kind: str, option: str) -> Iterator[str]:
    """Dotted paths, as ``--cfg-options`` takes them, to an option of dicts of one type."""
    if isinstance(node, Mapping):
        if type_name(node.get('type')) == kind and option in node:
            yield f'.{option}'
        for name, value in node.items():
            yield from (f'.{name}{place}' for place in _places(value, kind, option))
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from (f'.{i}{place}' for place in _places(value, kind, option))


def _key(error: Exception, cfg: Config) -> str | None:
    key = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module, name = frame.f_globals.get('__name__', ''), frame.f_code.co_name
        if module == 'mmengine.visualization.vis_backend' and name == '_init_env':
            return 'visualizer.vis_backends'  # a package that is not there, or a login
        if not module.startswith(('mmengine.runner', 'mmkd_graph')):
            continue
        if name == 'run' and module == 'mmengine.runner.loops':
            key = None  # a loop that runs in a hook prepares nothing
            continue
        if name in _PARTS and key in ('train_cfg', 'val_cfg', 'test_cfg'):
            key = f'{key.removesuffix("_cfg")}_{_PARTS[name]}'
        elif name == 'call_hook' and frame.f_locals.get('fn_name') in ('before_run', 'before_train'):
            key = _hook(frame.f_locals.get('hook'), cfg)
        elif name in _BUILDERS:
            key, hook = _BUILDERS[name], frame.f_locals.get('hook')
            if name == 'register_custom_hooks' and isinstance(hook, Mapping):
                key = hook_key(next((i for i, x in enumerate(frame.f_locals.get('hooks')) if x is hook), ''), hook)
    return key


def hook_key(place: int | str, hook: Mapping[str, Any]) -> str:
    """Config key and kind of one of ``custom_hooks``."""
    return f'custom_hooks[{place}] ({type_name(hook.get("type"))})'


def _hook(hook: Any, cfg: Config) -> str:
    """The place of a hook that is built already, if it is alone of its kind."""
    kind = type(hook).__name__
    hooks = [(i, other) for i, other in enumerate(cfg.get('custom_hooks') or []) if isinstance(other, Mapping)]
    keys = [hook_key(i, other) for i, other in hooks if type_name(other.get('type')) == kind]
    return keys[0] if len(keys) == 1 else kind


def explained(error: Exception) -> str:
    """What an exception says in one line, without mmengine's links, and with near names.

    Those are of what is not registered, and of an argument that a registered class does not take.

    Example:
        >>> explained(KeyError('RetinaNett is not in the mmdet::model registry. Please check whether …'))
        "KeyError: RetinaNett is not in the mmdet::model registry. Please check whether … (did you mean 'RetinaNet'?)"
    """
    message = one_line(error)
    if isinstance(error, KeyError) and error.args:
        message = f'KeyError: {" ".join(str(error.args[0]).split())}'
    message = _ADVICE.sub('', message).replace(_LESS, '')
    if found := re.search(r'must contain the key "type", but got (.*)', message):
        return f'KeyError: a type is missing in {found[1].removesuffix(" None")[:80]}'
    if found := _UNREGISTERED.search(message):
        names = [name for registry in _registries() if registry.name == found[2] for name in registry.module_dict]
        return message + near(type_name(found[1]), names)
    if found := re.search(r'Failed to get (\S+)', message):
        names = [name for registry in _registries() for name in registry.module_dict]
        return f'{message}: not registered{near(type_name(found[1]), names)}'
    if found := _UNEXPECTED.search(message):
        for registry in _registries():
            kind = registry.module_dict.get(found[1])
            if kind is not None:
                options = [name for name in options_of(kind)[0] if name not in ('self', 'init_cfg')]
                return f'{message}{near(found[2], options)}; it takes {", ".join(options) or "nothing"}'
    return message


def _registries() -> Iterator[Registry]:
    yield from (MODELS, HOOKS)
    for registry in vars(mmdet.registry).values():
        if isinstance(registry, Registry):
            yield registry
            if registry.parent is not None:
                yield registry.parent
