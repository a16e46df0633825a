"""Hooks around the training of a distilled detector."""

from .graph_pictures_hook import GraphPicturesHook
from .loss_schedule_hook import LossScheduleHook
from .student_export_hook import StudentExportHook

__all__ = ['GraphPicturesHook', 'LossScheduleHook', 'StudentExportHook']
