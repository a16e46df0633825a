"""What would go wrong in a training: findings about data, classes, teacher, losses and time."""

from mmkd_graph.findings import FAIL, OK, WARNING, CheckFailed, Finding, failed

from .classes import side_by_side, teacher_classes
from .training import check_config, check_runner

__all__ = [
    'FAIL',
    'OK',
    'WARNING',
    'CheckFailed',
    'Finding',
    'check_config',
    'check_runner',
    'failed',
    'side_by_side',
    'teacher_classes',
]
