"""Checks of arguments: an error names the argument, what was given and what is accepted."""

import math
from collections.abc import Sequence

from torch import Tensor


def argument_error(name: str, given: object, accepted: str) -> ValueError:
    """Build the error for a bad argument.

    Args:
        name: Name of the argument.
        given: What the caller passed.
        accepted: What would have been accepted, in words.

    Returns:
        The exception, to be raised by the caller.

    Example:
        >>> argument_error('k', 0, 'an integer >= 1')
        ValueError('k: got 0, accepted is an integer >= 1')
    """
    return ValueError(f'{name}: got {given}, accepted is {accepted}')


def check_choice(name: str, given: object, accepted: Sequence[str]) -> None:
    """Raise ``ValueError`` unless ``given`` is one of ``accepted``.

    Example:
        >>> check_choice('kind', 'euclid', ('cosine', 'rbf'))
        Traceback (most recent call last):
        ...
        ValueError: kind: got 'euclid', accepted is one of 'cosine', 'rbf'
    """
    if given not in accepted:
        raise argument_error(name, repr(given), 'one of ' + ', '.join(repr(choice) for choice in accepted))


def check_integer(name: str, given: object, least: int, *, optional: bool = False) -> None:
    """Raise ``ValueError`` unless ``given`` is an integer of at least ``least`` (or ``None``, if ``optional``).

    Example:
        >>> check_integer('k', 0, 1)
        Traceback (most recent call last):
        ...
        ValueError: k: got 0, accepted is an integer >= 1
    """
    if given is None and optional:
        return
    if isinstance(given, bool) or not isinstance(given, int) or given < least:
        raise argument_error(name, repr(given), ('None or ' if optional else '') + f'an integer >= {least}')


def check_number(name: str, given: object, *, positive: bool = False) -> None:
    """Raise ``ValueError`` unless ``given`` is a finite number >= 0 (> 0 with ``positive``).

    Example:
        >>> check_number('temperature', 0.0, positive=True)
        Traceback (most recent call last):
        ...
        ValueError: temperature: got 0.0, accepted is a finite number > 0
    """
    if (
        isinstance(given, bool)
        or not isinstance(given, int | float)
        or not math.isfinite(given)
        or given < 0
        or (positive and given == 0)
    ):
        raise argument_error(name, repr(given), f'a finite number {">" if positive else ">="} 0')


def check_same_shape(name: str, given: Tensor, reference: str, expected: Tensor) -> None:
    """Raise ``ValueError`` unless ``given`` has the shape of ``expected``, the argument ``reference``.

    Example:
        >>> import torch
        >>> check_same_shape('teacher', torch.zeros(1, 2, 2), 'student', torch.zeros(1, 3, 3))
        Traceback (most recent call last):
        ...
        ValueError: teacher: got shape (1, 2, 2), accepted is the shape of student, (1, 3, 3)
    """
    if given.shape != expected.shape:
        accepted = f'the shape of {reference}, {tuple(expected.shape)}'
        raise argument_error(name, f'shape {tuple(given.shape)}', accepted)
