"""Hooks around the training of a distilled detector."""

from .due_validation_hook import DueValidationHook
from .graph_pictures_hook import GraphPicturesHook
from .iteration_seed_hook import IterationSeedHook
from .loss_schedule_hook import LossScheduleHook
from .non_finite_loss_hook import NonFiniteLossHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .student_export_hook import StudentExportHook
from .tensorboard_layout_hook import TensorboardLayoutHook
from .training_check_hook import TrainingCheckHook
from .training_summary_hook import TrainingSummaryHook
from .unreadable_image_hook import UnreadableImageHook

__all__ = [
    'DueValidationHook',
    'GraphPicturesHook',
    'IterationSeedHook',
    'LossScheduleHook',
    'NonFiniteLossHook',
    'SafeCheckpointHook',
    'StudentExportHook',
    'TensorboardLayoutHook',
    'TrainingCheckHook',
    'TrainingSummaryHook',
    'UnreadableImageHook',
]
