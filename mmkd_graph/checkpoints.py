"""Checkpoint files: read as weights only, looked through before a run goes on from them, written whole or not."""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import HistoryBuffer, print_log
from mmengine.optim.scheduler import OneCycleParamScheduler
from mmengine.utils import digit_version

_FORCE, _FORBID = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
_PARTIAL = '.{}.part'
_CAN_ALLOW = digit_version(torch.__version__) >= digit_version('2.6.0')


# ---------------------------------------------------------------- reading


def _history_method(owner: type, name: str) -> Any:
    """What a pickle may ask of ``getattr``: a log history's own methods, and a one-cycle schedule's two curves."""
    if owner is OneCycleParamScheduler and name in ('_annealing_cos', '_annealing_linear'):
        return getattr(owner, name)
    if owner is not HistoryBuffer or name.startswith('_'):
        raise AttributeError(f'a checkpoint asks for the attribute {name!r} of {owner!r}')
    return getattr(owner, name)


def _harmless() -> list[Any]:
    """Classes beside tensors and plain containers that mmengine's checkpoints are made of: logs and NumPy's numbers."""
    numpy = [
        (maker, f'numpy.{module}.multiarray.{maker.__name__}')
        for maker in (np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0])  # _reconstruct, scalar
        for module in ('core', '_core')  # before NumPy 2 and since
    ]
    dtypes = {type(np.dtype(name)) for name in ('bool', 'int32', 'int64', 'uint8', 'uint32', 'float32', 'float64')}
    return [
        HistoryBuffer,
        OneCycleParamScheduler,
        np.ndarray,
        np.dtype,
        *dtypes,
        *numpy,
        (_history_method, 'builtins.getattr'),
    ]


@contextmanager
def weights_only() -> Iterator[None]:
    """Let ``torch.load``, whoever calls it inside, refuse everything but tensors, plain containers and mmengine's logs.

    A pickle can run any code while it is read. mmengine loads with ``weights_only=True`` at best as a first try, and
    reads without it what that refuses. torch before 2.6 can not be told which classes are harmless: there, files are
    read as mmengine does, and a message says so once.

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
    if not _CAN_ALLOW:
        _say_once(
            f'torch {torch.__version__} can not read these checkpoints as weights only: reading one may run code that '
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
    resumes or tests: without this it would refuse the checkpoints that it wrote.
    """
    if _CAN_ALLOW:
        torch.serialization.add_safe_globals(_harmless())


_said: set[str] = set()


def _say_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        print_log(message, logger='current', level=30)


def damage(path: str | os.PathLike[str]) -> str | None:
    """What is wrong with a checkpoint file, in words; None if it is whole.

    Every byte is read and compared with the checksums in the file, which ``torch.load`` does not do.

    Args:
        path: local file, written by torch 1.6 or newer.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except OSError as error:
        return f'it can not be read ({error.strerror or error})'
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError):
        size = os.path.getsize(path)
        return 'it is empty' if size == 0 else f'it is cut off or no checkpoint ({size} bytes)'
    return f'its contents are damaged ({broken})' if broken else None


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint that was found whole.

    Attributes:
        path: the file.
        iteration: iterations done.
        seed: the seed of the run.
        complete: whether it holds everything that a training needs to go on, the optimizer's state too.
        config: text of the run's config; empty if there is none in it.
    """

    path: Path
    iteration: int
    seed: int | None
    complete: bool
    config: str = ''


def read_resume_point(path: str | os.PathLike[str]) -> ResumePoint:
    """Look through a training checkpoint.

    Args:
        path: local file.

    Raises:
        ValueError: if the file is damaged, is no training checkpoint of mmengine, or holds more than weights and logs.
    """
    path = Path(path)
    if reason := damage(path):
        raise ValueError(f'{path}: {reason}')
    try:
        with weights_only():
            content = torch.load(path, map_location='cpu', mmap=True)
    except Exception as error:  # pickle errors have no common base
        raise ValueError(f'{path}: {refusal(error)}') from error
    meta = content.get('meta') if isinstance(content, Mapping) else None
    if not isinstance(meta, Mapping) or 'iter' not in meta or 'state_dict' not in content:
        raise ValueError(f'{path}: it is no training checkpoint of mmengine (no meta.iter, no state_dict)')
    complete = {'message_hub', 'optimizer'} <= set(content)
    return ResumePoint(path, int(meta['iter']), meta.get('seed'), complete, str(meta.get('cfg') or ''))


def refusal(error: BaseException) -> str:
    """Why ``torch.load`` refused a file, without its page of advice."""
    found = re.search(r'GLOBAL ([\w.]+)', str(error))
    return f'it holds more than weights ({found[1]})' if found else str(error).strip().splitlines()[0]


def named_checkpoint(work_dir: str | os.PathLike[str]) -> str:
    """What mmengine's ``last_checkpoint`` in a work dir names, a path or an address; empty if there is none."""
    pointer = Path(work_dir, 'last_checkpoint')
    return pointer.read_text(errors='replace').strip('\0 \n') if pointer.is_file() else ''


def find_resume_point(work_dir: str | os.PathLike[str]) -> tuple[ResumePoint | None, list[str]]:
    """The checkpoint that a run in ``work_dir`` goes on from: the last one, or the newest that is whole.

    Args:
        work_dir: folder with mmengine's ``last_checkpoint``.

    Returns:
        The checkpoint, None if there is none; and what is wrong with each newer file that was passed over.
    """
    work_dir, refused = Path(work_dir), []
    folder, tried = work_dir, set()
    pointer = work_dir / 'last_checkpoint'
    candidates = []
    if pointer.is_file():
        named = Path(named_checkpoint(work_dir))
        if not named.name:
            refused.append(f'{pointer} is empty')
        # a work dir may have been moved
        elif last := next((path for path in (named, work_dir / named.name) if path.exists()), None):
            candidates, folder = [last], last.parent
        else:
            refused.append(f'{named}, named in {pointer}, is not there')
    others = sorted(folder.glob('*.pth'), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in [*candidates, *others]:
        if path.resolve() in tried:
            continue
        tried.add(path.resolve())
        if path.is_dir():  # sharded, written by a strategy of mmengine's FlexibleRunner
            return ResumePoint(path, 0, None, True), refused
        try:
            point = read_resume_point(path)
        except ValueError as error:
            # exported weights beside the checkpoints are not passed over but were never meant
            if path in candidates or damage(path):
                refused.append(str(error))
            continue
        if path in candidates or point.complete:
            return point, refused
    return None, refused


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
