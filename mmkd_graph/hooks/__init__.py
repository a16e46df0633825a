"""Hooks around the training of a distilled detector."""

from .graph_pictures_hook import GraphPicturesHook
from .student_export_hook import StudentExportHook

__all__ = ['GraphPicturesHook', 'StudentExportHook']
