"""Config keys in errors: whole, as ``--cfg-options`` takes them, with the near name of one that is misspelt."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

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
    """Put ``key`` before the messages of errors that are raised inside; also a decorator.

    One that begins with an option goes on with it (``window: got 0`` becomes ``model.losses.crg.window: got 0``),
    another is separated (``model.losses.crg: …``). One that begins with the key is left alone, and so
    are errors of the system.

    Args:
        key: config key of what is built or done inside.
        options: names that may follow it.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, FileNotFoundError) as error:
        message = error.args[0] if error.args else ''
        if not isinstance(message, str) or getattr(error, 'errno', None) is not None:
            message = str(error)
        message = _joined(key, options, message)
        if isinstance(error, KeyError) or getattr(error, 'errno', None) is not None:
            raise ValueError(message) from error  # they would print it in quotation marks, or not at all
        error.args = (message,)
        raise


def _joined(key: str, options: Collection[str], message: str) -> str:
    if re.match(rf'{re.escape(key)}\b', message):
        return message
    option = re.match(r'(\w+)(?=[=:.\[]| is | has )', message)
    return f'{key}.{message}' if option and option[1] in options else f'{key}: {message}'


def split_key(message: str, default: str) -> tuple[str, str]:
    """Key and rest of a message that begins with a key under ``default``, or ``default`` and the whole message.

    Example:
        >>> split_key("model.taps.student='nek': no such module", 'model')
        ('model.taps.student', "'nek': no such module")
    """
    found = re.match(rf'({re.escape(default)}(?:\.\w+|\[[^\]]*\])*)(?:=|: ?| +)(.*)', message, re.DOTALL)
    return (found[1], found[2]) if found else (default, message)


def options_of(kind: Callable) -> tuple[dict[str, inspect.Parameter], bool]:
    """The named options of a class or function, and whether it takes any others as well."""
    parameters = inspect.signature(kind).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return (
        {name: p for name, p in parameters.items() if p.kind in named},
        any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters.values()),
    )


def check_options(kind: Callable, given: Mapping[str, Any], key: str) -> None:
    """Raise ``ValueError`` for an option that ``kind`` does not have, and for one that it needs and was not given.

    Args:
        kind: the class or function that a config dict asks for.
        given: the config dict.
        key: its config key.
    """
    options, open_ended = options_of(kind)
    if not open_ended:
        for name in given:
            if name not in options and name not in ('type', _SCOPE):
                raise ValueError(
                    f'{key}.{name} is unknown{near(name, options)}; {kind.__name__} takes: '
                    f'{", ".join(options) or "no options"}'
                )
    for name, option in options.items():
        if option.default is inspect.Parameter.empty and name not in given:
            raise ValueError(f'{key}.{name} is missing: {kind.__name__} needs it')


def find_class(registry: Registry, kind: Any, key: str, accepted: Iterable[str], more: str = '') -> Any:
    """What ``type`` asks for: of this registry, of the current scope's, or of mmdet's.

    Args:
        registry: where to look first.
        kind: a name, with or without scope, or the class itself.
        key: config key of the dict whose type it is.
        accepted: names for the message.
        more: what else is accepted, for the message.

    Raises:
        ValueError: if nothing is registered under that name; names the near one.
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
