"""Checkpoint files: read as weights only, looked through before they are used, written whole or not."""

from __future__ import annotations

import argparse
import datetime
import functools
import io
import logging
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PosixPath, PurePath, PurePosixPath, PureWindowsPath
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import HistoryBuffer, print_log
from mmengine.optim.scheduler import OneCycleParamScheduler
from mmengine.utils import digit_version

TRUST = 'MMKD_TRUST_CHECKPOINTS'
"""Environment variable: set to 1, checkpoint files are read whatever is in them. ``--trust`` of the tools sets it."""
HOW_TO_TRUST = f'If you trust the file: --trust, or {TRUST}=1'
"""What every refusal of a file ends with."""

_FORCE, _FORBID = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
_PARTIAL = '.{}.part'
_CAN_ALLOW = digit_version(torch.__version__) >= digit_version('2.6.0')


# ---------------------------------------------------------------- reading


def _history_method(owner: type, name: str) -> Any:
    """What a pickle may ask of ``getattr``: a log history's own methods, and a one-cycle schedule's two curves."""
    is_curve = owner is OneCycleParamScheduler and name in ('_annealing_cos', '_annealing_linear')
    if not is_curve and (owner is not HistoryBuffer or name.startswith('_')):
        raise AttributeError(f'a checkpoint asks for the attribute {name!r} of {owner!r}')
    return getattr(owner, name)


def _harmless() -> list[Any]:
    """Classes beside tensors that mmengine's checkpoints are made of: logs, configs, containers, NumPy's numbers.

    To make one of them from whatever arguments does nothing but that.
    """
    numpy = [
        (maker, f'numpy.{module}.multiarray.{maker.__name__}')
        for maker in (np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0])  # _reconstruct, scalar
        for module in ('core', '_core')  # before NumPy 2 and since
    ]
    numbers = np.typecodes['AllInteger'] + np.typecodes['AllFloat'] + '?US'
    paths = [
        (PosixPath if kind == 'PosixPath' and PosixPath is type(Path()) else pure, f'{module}.{kind}')
        for pure, kinds in (
            (PurePosixPath, ('PosixPath', 'PurePosixPath')),
            (PureWindowsPath, ('WindowsPath', 'PureWindowsPath')),
            (PurePath, ('PurePath',)),
        )
        for kind in kinds
        for module in ('pathlib', 'pathlib._local')  # the latter in Python 3.13
    ]
    return [
        *(HistoryBuffer, OneCycleParamScheduler, ConfigDict, np.ndarray, np.dtype),
        *{type(np.dtype(code)) for code in numbers},
        *numpy,
        *paths,
        *(range, slice, frozenset, argparse.Namespace),
        *(datetime.date, datetime.time, datetime.datetime, datetime.timedelta, datetime.timezone),
        (_history_method, 'builtins.getattr'),
    ]


def trust_files() -> None:
    """Let this process and its children read checkpoint files whatever is in them, from here on."""
    os.environ[TRUST] = os.environ[_FORBID] = '1'
    os.environ.pop(_FORCE, None)


def are_trusted() -> bool:
    """Whether checkpoint files are read whatever is in them."""
    return os.environ.get(TRUST, '0') not in ('', '0')


@contextmanager
def weights_only() -> Iterator[None]:
    """Let ``torch.load``, whoever calls it inside, refuse everything but tensors, plain containers and mmengine's logs.

    A pickle can run any code while it is read. mmengine loads with ``weights_only=True`` at best as a first try, and
    reads without it what that refuses. torch before 2.6 cannot be told which classes are harmless: there, files are
    read as mmengine does, and a message says so once. After :func:`trust_files` nothing is refused.

    Raises:
        pickle.UnpicklingError: in the body, by ``torch.load``.

    Example:
        >>> import pickle
        >>> file = io.BytesIO()
        >>> torch.save({'run': print}, file), file.seek(0)
        (None, 0)
        >>> with weights_only():
        ...     try:
        ...         _ = torch.load(file)
        ...     except pickle.UnpicklingError:
        ...         print('refused')
        refused
    """
    if are_trusted():
        trust_files()
        yield
        return
    if not _CAN_ALLOW:
        _say_once(
            f'torch {torch.__version__} cannot read these checkpoints as weights only: reading one may run code that '
            'is in it. Use files of people you trust, or torch 2.6 or newer.'
        )
        yield
        return
    before = {name: os.environ.pop(name, None) for name in (_FORCE, _FORBID)}
    allowed = torch.serialization.get_safe_globals()
    os.environ[_FORCE] = '1'
    try:
        torch.serialization.add_safe_globals(_harmless())
        yield
    finally:
        # not torch's own context manager, whose end removes what was allowed before it too
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)
        del os.environ[_FORCE]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def allow_logs() -> None:
    """Let ``torch.load(weights_only=True)`` read mmengine's own checkpoints from here on.

    Since torch 2.6 that is what ``torch.load`` does by default, and what upstream mmengine 0.10.7 calls when it
    resumes or tests: without this it would refuse the checkpoints that it wrote. Where files are trusted, it reads all.
    """
    if are_trusted():
        trust_files()
    if _CAN_ALLOW:
        torch.serialization.add_safe_globals(_harmless())


@functools.cache
def _say_once(message: str) -> None:
    print_log(message, logger='current', level=logging.WARNING)


def damage(path: str | os.PathLike[str]) -> str | None:
    """What is wrong with a local checkpoint of torch 1.6 or newer, in words; None if it is whole.

    Every byte is read and compared with the checksums in the file, which ``torch.load`` does not do.
    """
    if Path(path).is_dir():
        return 'it is a folder'
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except OSError as error:
        return f'it cannot be read ({error.strerror or error})'
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError):
        size = os.path.getsize(path)
        return 'it is empty' if size == 0 else f'it is cut off or no checkpoint ({size} bytes)'
    return f'its contents are damaged ({broken})' if broken else None


def is_address(path: str) -> bool:
    """Whether ``path`` is anything else than a local file: a URL, or a scheme of mmengine's."""
    return re.match(r'[\w-]+:', path) is not None


def not_weights(path: str | os.PathLike[str]) -> str | None:
    """Why a local file (a checkpoint, or weights alone, of any age) cannot be loaded as weights; None if it can.

    Nothing in the file is run. What :func:`trust_files` was called for is not looked at.
    """
    path = Path(path)
    if not path.exists():
        return 'there is no such file'
    if path.is_dir():
        return 'it is a folder'
    if are_trusted():
        return None
    try:
        with weights_only():
            torch.load(path, map_location='cpu', mmap=zipfile.is_zipfile(path) or None)
    except Exception as error:  # pickle errors have no common base
        reason = refusal(error)
        if 'more than weights' in reason:
            return f'{reason}; reading it can run code that is in it. {HOW_TO_TRUST}'
        return damage(path) or f'it is no checkpoint ({reason})'
    return None


def refusal(error: BaseException) -> str:
    """Why ``torch.load`` refused a file, without its page of advice."""
    while isinstance(error.__context__, UnpicklingError):  # mmengine tried again, with less allowed than at first
        error = error.__context__
    found = re.search(r'GLOBAL ([\w.]+)|function (\w+)|[Bb]locked module: (\w+)', str(error))
    if found:
        return f'it holds more than weights ({next(filter(None, found.groups()))})'
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# ---------------------------------------------------------------- writing


def write_whole(content: bytes, path: str | os.PathLike[str]) -> None:
    """Write a file whole or not at all; an older one of that name stays until the new one is complete on the disk.

    Raises:
        OSError: naming the file, if it could not be written (a full disk, for instance).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(_PARTIAL.format(path.name))
    try:
        with partial.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            message = f'{error.strerror}, writing {len(content) / 1e6:.1f} MB; nothing of it was kept'
            raise OSError(error.errno, message, str(path)) from error
        raise


def remove_partial(folder: str | os.PathLike[str]) -> None:
    """Remove what killed processes left of files that :func:`write_whole` was writing."""
    for path in Path(folder).glob(_PARTIAL.format('*')):
        path.unlink(missing_ok=True)


@register_backend('mmkd_graph.whole')
class WholeFilesBackend(LocalBackend):
    """The local file system, on which files appear when they are complete."""

    def put(self, obj: bytes, filepath: str | os.PathLike[str]) -> None:
        """Write bytes; see :func:`write_whole`."""
        write_whole(obj, filepath)

    def put_text(self, obj: str, filepath: str | os.PathLike[str], encoding: str = 'utf-8') -> None:
        """Write text; see :func:`write_whole`."""
        write_whole(obj.encode(encoding), filepath)


def save_whole(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """``torch.save`` by way of :func:`write_whole`."""
    with io.BytesIO() as buffer:
        torch.save(content, buffer)
        write_whole(buffer.getvalue(), path)
