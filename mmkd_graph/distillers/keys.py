"""Config keys in errors: whole, as ``--cfg-options`` takes them, with the near name of one that is misspelt."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.logging import print_log
from mmengine.registry import DefaultScope, Registry

_SCOPE = '_scope_'
"""mmengine writes it into every dict that comes from another package's base config."""


def near(name: Any, accepted: Iterable[str]) -> str:
    """A question in brackets that names what ``name`` resembles; empty if nothing does.

    Example:
        >>> near('chekpoint', ['config', 'checkpoint'])
        " (did you mean 'checkpoint'?)"
    """
    # the case is the commonest slip in the names of classes
    names = {x.lower(): x for x in accepted}
    found = difflib.get_close_matches(str(name).lower(), names, n=1)
    return f' (did you mean {names[found[0]]!r}?)' if found else ''


@contextmanager
def under(key: str, options: Collection[str]) -> Iterator[None]:
    """Put a config ``key`` before the messages of errors that are raised inside; also a decorator.

    One that begins with one of ``options`` goes on with it (``window: got 0`` becomes ``model.losses.crg.window: got
    0``), another is separated (``model.losses.crg: …``). One that begins with the key is left alone.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, FileNotFoundError) as error:
        message = error.args[0] if error.args else ''
        if not isinstance(message, str) or getattr(error, 'errno', None) is not None:
            message = str(error)
        option = re.match(r'(\w+)(?=[=:.\[]| is | has )', message)
        if not re.match(rf'{re.escape(key)}\b', message):
            message = f'{key}.{message}' if option and option[1] in options else f'{key}: {message}'
        if isinstance(error, KeyError) or getattr(error, 'errno', None) is not None:
            raise ValueError(message) from error  # they would print it in quotation marks, or not at all
        error.args = (message,)
        raise


def split_key(message: str, default: str) -> tuple[str, str]:
    """Key and rest of a message that begins with a key under ``default``, or ``default`` and the whole message.

    Example:
        >>> split_key("model.taps.student='nek': no such module", 'model')
        ('model.taps.student', "'nek': no such module")
    """
    found = re.match(rf'({re.escape(default)}(?:\.\w+|\[[^\]]*\])*)(?:=|: ?| +)(.*)', message, re.DOTALL)
    return (found[1], found[2]) if found else (default, message)


def typed(node: Any, key: str = '') -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every dict with a ``type`` in nested dicts and lists, outer ones first, with its key below ``key``.

    Example:
        >>> list(typed(dict(pipeline=[dict(type='Resize')]), 'dataset'))
        [('dataset.pipeline[0]', {'type': 'Resize'})]
    """
    if isinstance(node, Mapping):
        if 'type' in node:
            yield key, node
        for name, value in node.items():
            yield from typed(value, f'{key}.{name}')
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from typed(value, f'{key}[{i}]')


def options_of(kind: Callable) -> tuple[dict[str, inspect.Parameter], bool]:
    """The named options of a class or function, and whether it takes any others as well."""
    parameters = inspect.signature(kind).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return (
        {name: p for name, p in parameters.items() if p.kind in named},
        any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters.values()),
    )


def build(registry: Registry, kind: Callable, config: Mapping[str, Any], key: str, beside: Collection[str] = ()) -> Any:
    """Build ``kind`` with the options in ``config``; errors begin with the config ``key``.

    ``beside``: options that have been taken out of the config before, and that a message is to name as well.

    Raises:
        ValueError: for an option that ``kind`` does not have, and for one that it needs and was not given.
    """
    options, open_ended = options_of(kind)
    for name in config if not open_ended else ():
        if name not in options and name not in ('type', _SCOPE):
            known = [*options, *beside]
            accepted = ', '.join(known) or 'no options'
            raise ValueError(f'{key}.{name} is unknown{near(name, known)}; {kind.__name__} takes: {accepted}')
    for name, option in options.items():
        if option.default is inspect.Parameter.empty and name not in config:
            raise ValueError(f'{key}.{name} is missing: {kind.__name__} needs it')
    with under(key, options):
        return registry.build(dict(config, type=kind))


def check_model(needed: Mapping[str, Any], others: Mapping[str, Any], options: Collection[str]) -> None:
    """Raise ``ValueError`` if a distiller lacks one of ``needed``, or for ``others`` given beside its ``options``."""
    student = needed['student'] if isinstance(needed['student'], Mapping) else {}
    others = {key: value for key, value in others.items() if value is not None}
    detectors = [key for key in others if key == 'backbone' or key in student]
    if 'backbone' in detectors or len(detectors) > 1:
        raise ValueError(
            f"model needs _delete_=True: the detector's own keys ({', '.join(sorted(detectors))}) were inherited into "
            "it; write model = dict(_delete_=True, type='mmkd_graph.GraphDistiller', student={{_base_.model}}, …)"
        )
    beside = others.pop('data_preprocessor', None)  # from beside the config's model, by mmengine's runner
    if beside and student.get('data_preprocessor', beside) != beside:
        print_log(
            "data_preprocessor, beside the config's model, is another one than model.student.data_preprocessor: the "
            "student's counts",
            logger='current',
            level=30,
        )
    for key in others:
        if key == 'init_cfg':
            raise ValueError(f'model.{key} has no meaning on a GraphDistiller; set model.student.{key}')
        hint = f'; if it is meant for the detector, set model.student.{key}' if key in detectors else ''
        raise ValueError(f'model.{key} is unknown{near(key, options)}; accepted: {", ".join(options)}{hint}')
    examples = dict(
        student='the model dict of an mmdet detector, in a config file student={{_base_.model}}',
        teacher="dict(config='…', checkpoint='…')",
        losses="dict(crg=dict(type='mmkd_graph.CRGLoss'))",
    )
    for key, value in needed.items():
        if value is None:
            raise ValueError(f'{key} is missing; accepted: {examples[key]}')


def find_class(registry: Registry, kind: Any, key: str, accepted: Iterable[str], more: str = '') -> Any:
    """What a ``type`` asks for, a name or the class itself: of this registry, of the current scope's, or of mmdet's.

    Raises:
        ValueError: if nothing is registered under that name; names the config ``key``, the near one of the ``accepted``
            names, and what ``more`` is accepted.
    """
    if not isinstance(kind, str):
        return kind
    current = DefaultScope.get_current_instance()
    scopes = [None] if '.' in kind else [None, current and current.scope_name, 'mmdet']
    for scope in dict.fromkeys(scopes):
        try:
            found = registry.get(f'{scope}.{kind}' if scope else kind)
        except RuntimeError:  # "Failed to get …", of a name with a scope
            continue
        if callable(found):
            return found
    names = sorted(accepted)
    raise ValueError(
        f'{key}.type={kind!r} is not registered{near(kind.rpartition(".")[2], names)}; '
        f'accepted: {", ".join(names)}{more}'
    )
