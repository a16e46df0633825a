"""The validations that a training has finished, on the disk: what mmengine keeps of them lacks some after resuming.

Its checkpoints are written before the validation that follows, so the metric of the one after the last checkpoint is
in no message hub of a resumed training; and its history of a metric does not say when each value was measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmkd_graph.checkpoints import write_whole

_FILE = 'validated.json'


@dataclass(frozen=True)
class Validation:
    """One of them.

    Attributes:
        iter: iterations that the training had done.
        epoch: and epochs; 0 where a training counts iterations alone.
        metrics: what the evaluators gave, numbers alone; empty if that was nothing, or was not noted.
    """

    iter: int
    epoch: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


def read_validations(work_dir: str | Path) -> list[Validation]:
    """The validations that are noted in a work dir, in their order; none if the file cannot be read."""
    try:
        noted = json.loads((Path(work_dir) / _FILE).read_text())
        # version 0.1 noted iterations alone
        return [Validation(one) if isinstance(one, int) else Validation(**one) for one in noted]
    except (OSError, ValueError, TypeError):
        return []


def write_validations(work_dir: str | Path, validations: Sequence[Validation]) -> None:
    """Note these in the place of those that are noted; without any, the file goes."""
    path = Path(work_dir) / _FILE
    if validations:
        write_whole(json.dumps([asdict(one) for one in validations]).encode(), path)
    else:
        path.unlink(missing_ok=True)


def numbers(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """Those of an evaluator's results that are one number, as Python's floats."""
    found = {}
    for name, value in (metrics or {}).items():
        try:
            found[name] = float(value)
        except (TypeError, ValueError):  # arrays, texts, None
            continue
    return found
