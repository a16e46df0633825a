"""Models inside of wrappers."""

from __future__ import annotations

from typing import Any

from mmengine.model import is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> Any:
    """The model inside of a wrapper of mmengine's, such as DDP; any other as it is."""
    return model.module if is_model_wrapper(model) else model
