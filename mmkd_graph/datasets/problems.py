"""What is wrong with data sets on disk, by file and entry."""

from __future__ import annotations

import os
import reprlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ERROR, WARNING, NOTE = 'error', 'warning', 'note'
_EXAMPLES = 3
"""Problems of one kind that are told one by one; the others are counted."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with a data set.

    Attributes:
        severity: ``'error'`` (a training would fail, or learn something wrong), ``'warning'`` (mmdet leaves the
            entry out in silence) or ``'note'`` (nothing is wrong; what was not looked at).
        file: the file it is in.
        entry: the entry in the file; empty if it is the file as a whole.
        message: what is wrong.
        key: the config key of the data set.
    """

    severity: str
    file: str
    entry: str
    message: str
    key: str = ''

    @property
    def place(self) -> str:
        """File and entry; empty for what is wrong with the config alone."""
        return ', '.join(part for part in (self.file, self.entry) if part)

    def __str__(self) -> str:
        return ': '.join(part for part in (self.key, self.place, self.message) if part)


def sort_by_severity(problems: Sequence[Problem]) -> list[Problem]:
    """Errors, then warnings, then notes; each as they come."""
    return sorted(problems, key=lambda problem: (ERROR, WARNING, NOTE).index(problem.severity))


class Problems:
    """Collects the problems of one data set; of each kind the first few with their entry."""

    def __init__(self, file: str | os.PathLike[str], key: str) -> None:
        self.file, self.key = str(file), key
        self.problems: list[Problem] = []
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, severity: str, entry: str, message: str, kind: str = '', file: str | os.PathLike[str] = '') -> None:
        """Note a problem; ``kind`` is the message without what differs from entry to entry."""
        self._counts[severity, kind or message] += 1
        if self._counts[severity, kind or message] <= _EXAMPLES:
            texts = (_printable(text) for text in (str(file or self.file), entry, message))
            self.problems.append(Problem(severity, *texts, self.key))

    def all(self) -> list[Problem]:
        """What was noted, errors first, with the number of those not told."""
        rest = [
            Problem(severity, self.file, '', _printable(f'{kind}: {count - _EXAMPLES} more'), self.key)
            for (severity, kind), count in self._counts.items()
            if count > _EXAMPLES
        ]
        return sort_by_severity([*self.problems, *rest])


def _printable(text: str) -> str:
    """Half of a surrogate pair, which JSON may hold, cannot be printed."""
    return text.encode('utf-8', 'backslashreplace').decode()


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80


def shown(value: Any) -> str:
    """``repr`` of anything that a file may hold: of what is long or deep, its beginning."""
    return _repr.repr(value)


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for a message, as a list; of many the first."""
    more = f', and {len(names) - most} more' if len(names) > most else ''
    return f'[{", ".join(map(shown, names[:most]))}{more}]'


def are_numbers(*values: Any) -> bool:
    """Whether all are finite numbers, none of them a truth value."""
    return {*map(type, values)} <= {int, float} and all(-1e308 < value < 1e308 for value in values)


FAR = 10
"""Image sizes beyond an edge at which no box of an image can end: a loss would be infinite, or nearly."""


def is_far_outside(box: Sequence[float], size: tuple[float, float]) -> bool:
    """Whether a box (x1, y1, x2, y2) reaches further than :data:`FAR` sizes (width, height) out of the image."""
    sides = zip(box, (*size, *size), strict=True)
    return any(corner < -FAR * length or corner > (1 + FAR) * length for corner, length in sides)
