"""One page that shows what a distillation gained, made of the work dirs that trainings left."""

from .report import make_report
from .trainings import ReportError

__all__ = ['ReportError', 'make_report']
