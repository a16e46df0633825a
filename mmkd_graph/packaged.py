"""What travels with the package: configs and tools, in ``.mim`` as in mmdet. In a checkout, ``.mim`` holds links.

Importing this imports nothing but the standard library.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config

_MIM = Path(__file__).resolve().parent / '.mim'
_SCOPE = 'mmkd_graph::'
TOOLS = _MIM / 'tools'
"""The programs, also ``python -m mmkd_graph TOOL``."""
_READING = threading.RLock()
"""Comparisons read configs in several threads."""


def read_config(config: str | Path) -> Config:
    """The config at a path or named ``package::folder/name.py``; ``mmkd_graph::`` is known, see :func:`own_configs`.

    Raises:
        FileNotFoundError: if there is none.
        Exception: what a config raises; it is a program.

    Example:
        >>> read_config('mmkd_graph::crg/retinanet_r50_fpn_crg-r101_1x_coco.py').model.type
        'mmkd_graph.GraphDistiller'
    """
    from mmengine.config import Config
    from mmengine.hub import get_config

    name = str(config)
    with own_configs():
        if '::' in name and not name.startswith(_SCOPE):
            return get_config(name)
        return Config.fromfile(_path(name))


@contextmanager
def own_configs() -> Iterator[None]:
    """Let mmengine's configs name those of this package in ``_base_``: ``mmkd_graph::folder/name.py``.

    By itself mmengine knows OpenMMLab's packages alone. The files are those of the package that was imported, and the
    scope of what they contain is not this package: they write its prefix, and have mmdet's scope for the rest.
    """
    from mmengine.config import Config

    with _READING:
        find = Config._get_cfg_path

        def find_own(path: str, filename: str) -> tuple[str, str | None]:
            return (_path(path), None) if path.startswith(_SCOPE) else find(path, filename)

        Config._get_cfg_path = staticmethod(find_own)
        try:
            yield
        finally:
            Config._get_cfg_path = staticmethod(find)


def shipped(path: str | Path) -> str:
    """A path such as ``configs/demo/…`` or ``tools/…``, or where the package has that file if there is none here."""
    return str(path if Path(path).is_file() or not (_MIM / path).is_file() else _MIM / path)


def command(tool: str, *arguments: str) -> str:
    """The command of a tool as it can be typed here: by its path in the root of the checkout, else ``-m mmkd_graph``.

    Example:
        >>> in_root, elsewhere = "python tools/test.py 'a config.py'", "python -m mmkd_graph test 'a config.py'"
        >>> command('test.py', 'a config.py') in (in_root, elsewhere)
        True
    """
    path = Path('tools', tool)
    in_root = path.is_file() and path.samefile(TOOLS / tool)
    words = [str(path)] if in_root else ['-m', 'mmkd_graph', tool.removesuffix('.py')]
    return shlex.join(['python', *words, *arguments])


def _path(name: str) -> str:
    return str(_MIM / 'configs' / name.removeprefix(_SCOPE)) if name.startswith(_SCOPE) else name
