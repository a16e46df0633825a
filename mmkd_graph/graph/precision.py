"""Numeric precision of the graph mathematics: float32 or better, whatever the training loop runs in."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from .arguments import argument_error

Result = TypeVar('Result')


def widen(*tensors: Tensor, name: str = 'features') -> tuple[Tensor, ...]:
    """Bring floating-point tensors to one type of at least float32.

    float16 and bfloat16 become float32; if any tensor is float64, all of them become float64.

    Args:
        *tensors: Floating-point tensors of any shape.
        name: Name of the argument they came from, for the error.

    Returns:
        The tensors in their common type, in order.

    Raises:
        ValueError: If a tensor is not of a real floating-point type.

    Example:
        >>> import torch
        >>> a, b = widen(torch.ones(2, dtype=torch.float16), torch.ones(2, dtype=torch.bfloat16))
        >>> a.dtype, b.dtype
        (torch.float32, torch.float32)
    """
    dtype = torch.float32
    for tensor in tensors:
        if not torch.is_floating_point(tensor):
            raise argument_error(name, f'a tensor of {tensor.dtype}', 'a real floating-point tensor')
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def in_full_precision(function: Callable[..., Result]) -> Callable[..., Result]:
    """Decorator: floating-point tensors among the arguments come widened, and autocast leaves the operations alone.

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
        given = (*args, *options.values())
        places = [i for i, x in enumerate(given) if isinstance(x, Tensor) and x.is_floating_point()]
        if not places:
            raise argument_error(function.__name__, f'arguments {given}', 'at least one floating-point tensor')
        wide = list(given)
        for i, x in zip(places, widen(*(given[i] for i in places)), strict=True):
            wide[i] = x
        with torch.autocast(given[places[0]].device.type, enabled=False):
            return function(*wide[: len(args)], **dict(zip(options, wide[len(args) :], strict=True)))

    return run
