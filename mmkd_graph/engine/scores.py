"""What an evaluation says, whatever its metric: the average precision if it gives one, else its first number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmkd_graph.checking.accuracy import average_precision
from mmkd_graph.registry import type_name

_TIMES = ('time', 'data_time')


@dataclass(frozen=True)
class Score:
    """One model on one split.

    Attributes:
        metric: its name, such as ``'coco/bbox_mAP'``.
        value: 100 times of it: average precision is in percent.
        at_50: the same at an IoU of 0.5; None if the evaluator does not give it.
        empty: whether not a single object was detected, of which mmdet's ``CocoMetric`` says nothing but a warning.
    """

    metric: str
    value: float
    at_50: float | None = None
    empty: bool = False


def score(metrics: Mapping[str, Any], evaluator: Any) -> Score:
    """Read the metrics that ``tools/test.py`` has left.

    Args:
        metrics: by name; times are no metrics.
        evaluator: of the config, which says what is meant by no metrics at all.

    Raises:
        ValueError: if there is none, and not for want of detections.
    """
    numbers = {
        name: value
        for name, value in metrics.items()
        if name not in _TIMES and isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    if not numbers:
        coco = coco_metric(evaluator)
        if coco is None or coco.get('format_only'):
            given = 'format_only=True' if coco else f'{evaluator}'
            raise ValueError(f'the evaluator gives no metric ({given}); accepted: one that scores detections')
        kind = coco.get('metric', 'bbox')
        name = f'{coco.get("prefix") or "coco"}/{kind if isinstance(kind, str) else kind[0]}_mAP'
        return Score(name, 0.0, 0.0, empty=True)
    metric = average_precision(numbers) or next(iter(numbers))
    at_50 = next((numbers[x] for x in (f'{metric}_50', metric.rpartition('/')[0] + '/AP50') if x in numbers), None)
    return Score(metric, 100 * numbers[metric], None if at_50 is None else 100 * at_50)


def coco_metric(evaluator: Any) -> Any:
    """The ``CocoMetric`` in an evaluator's config, which writes and reads files of boxes; None if there is none."""
    if isinstance(evaluator, Mapping):
        if type_name(evaluator.get('type')) == 'CocoMetric':
            return evaluator
        evaluator = evaluator.get('metrics')
    found = map(coco_metric, evaluator) if isinstance(evaluator, (list, tuple)) else ()
    return next((one for one in found if one is not None), None)
