"""What is wrong with data sets on disk, by file and entry."""

from __future__ import annotations

import os
import reprlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mmkd_graph.findings import FAIL, Finding, sort_by_level

_EXAMPLES = 3
"""Problems of one kind that are reported one by one, where they differ; the others are counted."""


class Problems:
    """Collects the problems of one data set; of each kind the first few with their entry.

    Of many in the same words only the first is reported, with the number of the others.
    """

    def __init__(self, file: str | os.PathLike[str], key: str) -> None:
        self.file, self.key = str(file), key
        self.findings: list[Finding] = []
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, level: str, entry: str, found: str, kind: str = '', file: str | os.PathLike[str] = '') -> None:
        """Note a problem; ``kind`` is what was found without what differs from entry to entry."""
        self._counts[level, kind or found] += 1
        if self._counts[level, kind or found] <= _EXAMPLES:
            self.findings.append(problem(level, self.key, file or self.file, entry, found))

    def all(self) -> list[Finding]:
        """What was noted, failures first, with the number of those that are only counted."""
        findings = self.findings
        for (level, kind), count in self._counts.items():
            if count <= _EXAMPLES:
                continue
            alike = [finding for finding in findings if (finding.level, finding.found) == (level, _printable(kind))]
            if len(alike) == _EXAMPLES:
                first = replace(alike[0], found=f'{alike[0].found} (and {count - 1} more)')
                findings = [first if x is alike[0] else x for x in findings if x not in alike[1:]]
            else:
                findings = [*findings, problem(level, self.key, self.file, '', f'{kind}: {count - _EXAMPLES} more')]
        return sort_by_level(findings)


def problem(level: str, key: str, file: str | os.PathLike[str], entry: str, found: str) -> Finding:
    """A finding about an ``entry`` of a ``file``; without an entry it is about the file as a whole.

    ``FAIL``: a training would fail, or learn something wrong. ``WARNING``: mmdet leaves the entry out in silence.
    ``OK``: nothing is wrong; what was not looked at.
    """
    advice = 'correct the path or the file' if level == FAIL and file else ''
    place = ', '.join(part for part in (str(file), entry) if part)
    return Finding(level, key, _printable(found), advice, place=_printable(place))


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
