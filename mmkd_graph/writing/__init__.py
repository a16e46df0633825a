"""Write distillation configs for any two detectors, on any data."""

from .checked import check_written
from .configs import Written, write_configs

__all__ = ['Written', 'check_written', 'write_configs']
