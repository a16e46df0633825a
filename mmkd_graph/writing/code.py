"""Values of a config as readable Python."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

_WIDTH = 119


class Code(str):
    """An expression, written as it is; as a key, it stands alone (``**name``)."""


def assignment(name: str, value: Any) -> str:
    """``name = value``, over several lines where it is long.

    Example:
        >>> print(assignment('model', dict(bbox_head=dict(num_classes=Code('len(names)')), neck=None)), end='')
        model = dict(bbox_head=dict(num_classes=len(names)), neck=None)
    """
    return f'{name} = {_text(value, len(name) + 3, 0)}\n'


def differences(there: str, wanted: str) -> list[str]:
    """Settings that differ between the codes of two config files, by key.

    Args:
        there: a file as it is.
        wanted: the file that would take its place.

    Returns:
        ``'key: value there, not value wanted'``; ``nothing`` for a value that one of them lacks. Empty if ``there`` is
        no Python.

    Example:
        >>> differences('model = dict(depth=18, neck=None)', 'model = dict(depth=50, neck=None)')
        ['model.depth: 18, not 50']
    """
    try:
        ours, theirs = _settings(wanted), _settings(there)
    except SyntaxError:
        return []
    return [
        f'{key}: {theirs.get(key, "nothing")}, not {ours.get(key, "nothing")}'
        for key in dict.fromkeys([*ours, *theirs])
        if ours.get(key) != theirs.get(key)
    ]


def _settings(text: str) -> dict[str, str]:
    """The code of every value in a config file's assignments, by its key."""
    found: dict[str, str] = {}

    def collect(key: str, node: ast.expr) -> None:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == 'dict' and node.keywords and not node.args:
            for item in node.keywords:
                collect(f'{key}.{item.arg}' if item.arg else f'{key}.**{ast.unparse(item.value)}', item.value)
        else:
            found[key] = ast.unparse(node)

    for line in ast.parse(text).body:
        if isinstance(line, ast.Assign):
            collect(ast.unparse(line.targets[0]), line.value)
        else:
            found[ast.unparse(line)] = 'there'
    return found


def _text(value: Any, before: int, indent: int) -> str:
    """Code of a value; ``before`` characters stand on its first line already."""
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, Mapping) and all(isinstance(key, Code) or key.isidentifier() for key in value):
        return _wrapped('dict(', _items(value, indent + 4), ')', before, indent)
    if isinstance(value, (list, tuple)):
        start, end = '[]' if isinstance(value, list) else '()'
        items = [_text(item, indent + 4, indent + 4) for item in value]
        end = f',{end}' if isinstance(value, tuple) and len(value) == 1 else end
        return _wrapped(start, items, end, before, indent)
    return repr(value)


def _items(value: Mapping[str, Any], indent: int) -> list[str]:
    return [
        str(key) if isinstance(key, Code) else f'{key}={_text(item, indent + len(key) + 1, indent)}'
        for key, item in value.items()
    ]


def _wrapped(start: str, items: list[str], end: str, before: int, indent: int) -> str:
    line = start + ', '.join(items) + end
    if '\n' not in line and before + len(line) <= _WIDTH:
        return line
    inner = ''.join(f'{" " * (indent + 4)}{item},\n' for item in items)
    return f'{start}\n{inner}{" " * indent}{end[-1]}'
