"""The first step of a program: end at signals with a line, and import mmdet without its remarks.

Nothing but the standard library is imported here.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError

from .interrupts import exit_at_signals, say


def start() -> None:
    """End at Ctrl-C and SIGTERM with one line from here on, and import the stack, which takes seconds."""
    exit_at_signals()
    try:
        import_yapf()
        with without_optional_parts():
            import mmdet.datasets
            import mmdet.evaluation  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name not in ('torch', 'mmengine', 'mmcv', 'mmdet', 'yapf'):
            raise
        root = Path(__file__).resolve().parents[2]
        other = root / '.venv' / 'bin' / 'activate'
        there = other.exists() and Path(sys.prefix) != root / '.venv'
        advice = f'source {other}' if there else f'make install in {root}, or install mmdet there'
        say(f'error: {sys.executable} has no {error.name}; {advice}')
        raise SystemExit(1) from None


@contextlib.contextmanager
def without_optional_parts() -> Iterator[None]:
    """Drop what mmdet's imports say of OneDL's data sets and of a faster evaluation; pass on the rest."""
    warnings.filterwarnings('ignore', message='faster_coco_eval is not installed')
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            if not line.startswith('Could not import OneDL'):
                print(line)


def import_yapf(attempts: int = 20, pause: float = 0.25) -> None:
    """Import the formatter of mmengine's configs, and try again while another process writes its cache.

    At its first import for a user, yapf writes its grammar into a cache under the final name. Another process may read
    a part of it.

    Raises:
        EOFError, UnpicklingError: if the cache is not whole after so many ``attempts``, ``pause`` seconds apart.
    """
    for attempt in range(1, attempts + 1):
        try:
            import yapf  # noqa: F401

            return
        except (EOFError, UnpicklingError):
            if attempt == attempts:
                raise
            time.sleep(pause)
