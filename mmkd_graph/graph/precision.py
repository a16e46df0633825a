"""Numeric precision of the graph mathematics: float32 or better, whatever the training loop runs in."""

from collections.abc import Callable, Iterable
from functools import reduce, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from .arguments import argument_error

Result = TypeVar('Result')


def wide_type(tensors: Iterable[Tensor]) -> torch.dtype:
    """The type that real tensors are computed in: float32, or float64 if any of them is.

    Example:
        >>> import torch
        >>> wide_type([torch.ones(2, dtype=torch.float16), torch.ones(2, dtype=torch.bfloat16)])
        torch.float32
    """
    return reduce(torch.promote_types, (x.dtype for x in tensors), torch.float32)


def in_full_precision(function: Callable[..., Result]) -> Callable[..., Result]:
    """Decorator: floating-point tensors among the arguments come in one wide type, and autocast is off.

    Example:
        >>> import torch
        >>> @in_full_precision
        ... def product(x, y):
        ...     return x @ y
        >>> with torch.autocast('cpu', dtype=torch.bfloat16):
        ...     product(torch.eye(2, dtype=torch.float16), torch.eye(2)).dtype
        torch.float32
    """

    @wraps(function)
    def run(*args: Any, **options: Any) -> Result:
        tensors = [x for x in (*args, *options.values()) if _is_floating(x)]
        if not tensors:
            raise argument_error(function.__name__, 'none', 'at least one floating-point tensor')
        dtype = wide_type(tensors)
        wide = [x.to(dtype) if _is_floating(x) else x for x in args]
        wide_options = {name: x.to(dtype) if _is_floating(x) else x for name, x in options.items()}
        with torch.autocast(tensors[0].device.type, enabled=False):
            return function(*wide, **wide_options)

    return run


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
