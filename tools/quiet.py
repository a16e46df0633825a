"""Leave out what mmdet says of optional parts when it is imported: no config needs them that does not name them."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def without_optional_parts() -> Iterator[None]:
    """Let imports inside say nothing of OneDL's data sets and of a faster evaluation, but all the rest."""
    warnings.filterwarnings('ignore', message='faster_coco_eval is not installed')
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            if not line.startswith('Could not import OneDL'):
                print(line)
