"""What a check has to say: one line per finding, and the error that stops a training."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmengine.dist import all_gather_object

OK, WARNING, FAIL = 'ok', 'warning', 'FAIL'

LOG = logging.getLogger(__name__)
"""Gets, at the level DEBUG, the tracebacks of what becomes one line."""


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        level: ``'ok'``, ``'warning'`` (a training runs, but look at this) or ``'FAIL'`` (it would fail, or be wasted).
        key: the config key that it is about.
        found: what was found there.
        advice: what to do about it; empty if nothing is to be done.
        details: the numbers and names behind ``found``, for programs.

    Example:
        >>> print(Finding(FAIL, 'val_dataloader.dataset.data_root', 'there is no folder data/coco', 'set another'))
        FAIL     val_dataloader.dataset.data_root: there is no folder data/coco; set another
    """

    level: str
    key: str
    found: str
    advice: str = ''
    details: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        line = f'{self.level:<8} {self.key}: {self.found}' + (f'; {self.advice}' if self.advice else '')
        return ' '.join([line[:8], *line[8:].split()])


class CheckFailed(ValueError):
    """A check found what would make a training fail; the message has one line per such finding.

    Args:
        findings: all of them; those that are no failures are left out of the message.
    """

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.failures = [finding for finding in findings if finding.level == FAIL]
        super().__init__('\n'.join(map(str, self.failures)))


def failed(findings: Iterable[Finding]) -> bool:
    """Whether one of them is a failure."""
    return any(finding.level == FAIL for finding in findings)


def agreed(findings: Sequence[Finding]) -> list[Finding]:
    """The findings of all ranks, each once, the same on every rank.

    A key of which one rank reports a failure is no more reported as good by another.
    """
    union = list(dict.fromkeys(x for ranks in all_gather_object(list(findings)) for x in ranks))
    bad = {finding.key for finding in union if finding.level == FAIL}
    first: dict[str, Finding] = {}
    for finding in union:
        if finding.level == OK:
            first.setdefault(finding.key, finding)  # losses have another value on every rank
    return [x for x in union if x.level != OK or (x.key not in bad and first[x.key] is x)]


def some_of(differences: Sequence[Any], most: int = 6) -> str:
    """What differs, for a line; of much the first."""
    more = len(differences) - most
    return '; '.join(map(str, differences[:most])) + (f'; and {more} more' if more > 0 else '')


def one_line(error: BaseException) -> str:
    """What an exception says, without its pages: of one that a loading process raised, what is at its end."""
    LOG.debug('', exc_info=error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith('Caught '):
        return lines[-1]
    return f'{type(error).__name__}: {" ".join(lines)}'
