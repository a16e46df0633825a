"""Which checkpoint a training goes on from, and whether it is one of this training."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.optim import OptimWrapperDict
from torch import nn

from mmkd_graph.checkpoints import HOW_TO_TRUST, damage, is_address, refusal, weights_only
from mmkd_graph.unwrapping import unwrapped

_LONGEST_PATH = 4096
_OPTIMIZER_TRAITS = ('momentum', 'betas', 'alpha', 'rho', 'lr_decay')
"""Settings in the parameter groups that tell torch's optimizers apart."""


@dataclass(frozen=True)
class Start:
    """What a training begins with.

    Attributes:
        path: the checkpoint, a path or an address; None for none.
        resume: go on from it; else its weights are taken.
        iteration: iterations that the run it goes on with has done.
        seed: the seed of that run, if it is known.
        config: text of that run's config; empty if there is none in its checkpoint.
        passed_over: what is wrong with each newer checkpoint.
        error: why nothing can be begun; empty if something can.
    """

    path: str | None = None
    resume: bool = False
    iteration: int = 0
    seed: int | None = None
    config: str = ''
    passed_over: tuple[str, ...] = ()
    error: str = ''


class NotResumable(ValueError):
    """A file that no training can go on from."""


class Damaged(NotResumable):
    """A file that is damaged, rather than something else than a training checkpoint."""


def read_resume_point(path: str | os.PathLike[str]) -> Start:
    """Look through a training checkpoint in a local file.

    Raises:
        NotResumable: if the file is damaged, is no training checkpoint of mmengine, or holds more than weights and
            logs.
    """
    path = Path(path)
    if reason := damage(path):
        raise Damaged(f'{path}: {reason}')
    content = _content(path)
    meta = content.get('meta') if isinstance(content, Mapping) else None
    if not isinstance(meta, Mapping) or 'iter' not in meta or 'state_dict' not in content:
        raise NotResumable(f'{path}: it is no training checkpoint of mmengine (no meta.iter, no state_dict)')
    if missing := [name for name in ('optimizer', 'message_hub') if name not in content]:
        raise NotResumable(
            f'{path}: it holds weights without {" and ".join(missing)}, so no training can go on from it; accepted for '
            'resuming: a training checkpoint (iter_*.pth, epoch_*.pth); load_from starts a training from weights'
        )
    return Start(str(path), True, int(meta['iter']), meta.get('seed'), str(meta.get('cfg') or ''))


def _content(path: Path) -> Any:
    try:
        with weights_only():
            return torch.load(path, map_location='cpu', mmap=True)
    except Exception as error:  # pickle errors have no common base
        hint = f'. {HOW_TO_TRUST}' if 'more than weights' in refusal(error) else ''
        raise NotResumable(f'{path}: {refusal(error)}{hint}') from error


def named_checkpoint(work_dir: str | os.PathLike[str]) -> str:
    """What mmengine's ``last_checkpoint`` in a work dir names, a path or an address; empty if that names nothing."""
    pointer = Path(work_dir, 'last_checkpoint')
    try:
        with pointer.open('rb') as file:
            text = file.read(_LONGEST_PATH + 1).decode().strip('\0 \r\n')
    except (OSError, UnicodeDecodeError):
        return ''
    return text if text.isprintable() and len(text) <= _LONGEST_PATH else ''


def find_resume_point(work_dir: str | os.PathLike[str]) -> tuple[Start | None, list[str]]:
    """The checkpoint that a run in ``work_dir`` goes on from: the last one, or the newest that is whole.

    Returns:
        The checkpoint, None if there is none; and what is wrong with each newer file that was passed over.
    """
    folder = work_dir = Path(work_dir)
    pointer = work_dir / 'last_checkpoint'
    candidates, refused = [], []
    if pointer.exists() or pointer.is_symlink():
        named = named_checkpoint(work_dir)
        if pointer.is_dir():
            refused.append(f'{pointer}: it is a folder')
        elif not pointer.exists():
            refused.append(f'{pointer}: it is a link to nothing')
        elif not named:
            refused.append(f'{pointer}: it is empty' if not pointer.stat().st_size else f'{pointer}: it names no file')
        # a work dir may have been moved
        elif last := next((p for p in (Path(named), work_dir / Path(named).name) if _is_there(p)), None):
            candidates, folder = [last], last.parent
        else:
            refused.append(f'{named}, named in {pointer}, is not there')
    tried = set()
    others = filter(_is_there, folder.glob('*.pth'))
    for path in [*candidates, *sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)]:
        if path.resolve() in tried:
            continue
        tried.add(path.resolve())
        try:
            return read_resume_point(path), refused
        except NotResumable as error:
            # exported weights and folders beside the checkpoints are not passed over but were never meant
            if path in candidates or (isinstance(error, Damaged) and not path.is_dir()):
                refused.append(str(error))
    return None, refused


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long for the file system
        return False


def find_start(work_dir: str | os.PathLike[str], load_from: str | None, resume: bool | str, sharded: bool) -> Start:
    """What a training in ``work_dir`` begins with.

    Args:
        work_dir: folder with mmengine's ``last_checkpoint``, if it has begun.
        load_from: a checkpoint, a path or an address.
        resume: False takes the weights of ``load_from``, if there is one; True goes on from ``load_from``; without
            that, or with ``'auto'``, from the last whole checkpoint in the work dir, and where there is none, as with
            False.
        sharded: whether the runner reads folders, which strategies of mmengine's ``FlexibleRunner`` write.
    """
    if not resume:
        return Start(load_from)
    named = load_from
    if resume == 'auto' or not load_from:
        named = named_checkpoint(work_dir)
        if not is_address(named) and not (sharded and named and Path(named).is_dir()):
            point, refused = find_resume_point(work_dir)
            if point is not None:
                return replace(point, passed_over=tuple(refused))
            if not refused:  # a config's own load_from counts: a requeued job has one command line
                return Start(load_from)
            error = (
                f'--resume: no whole checkpoint is left in {work_dir} ({refused[0]}); accepted: --resume CHECKPOINT '
                'with one from elsewhere, or another --work-dir to start anew'
            )
            return Start(passed_over=tuple(refused), error=error)
    if is_address(named) or (sharded and Path(named).is_dir()):
        return Start(named, resume=True)  # left to mmengine
    if not _is_there(Path(named)):
        return Start(error=f'--resume: no checkpoint file {named!r}')
    try:
        return read_resume_point(named)
    except NotResumable as error:
        return Start(error=f'--resume: {error}')


# ---------------------------------------------------------------- of this training?


def differences(path: str | os.PathLike[str], model: nn.Module, optim_wrapper: Any) -> list[str]:
    """In what a checkpoint is of another make-up than the training that is to go on from it.

    Args:
        path: a local training checkpoint.
        model: the model of the training, in its wrapper or not.
        optim_wrapper: its ``OptimWrapper``, or mmengine's dict of several.

    Returns:
        One phrase for each difference; none if the training can go on.
    """
    content = _content(Path(path))
    saved = {key.removeprefix('module.'): value for key, value in content['state_dict'].items()}
    own = unwrapped(model).state_dict()
    optimizers = _optimizer_differences(content['optimizer'], _groups(optim_wrapper))
    missing = [key for key in own if key not in saved and not key.endswith('num_batches_tracked')]
    shapes = [key for key, value in own.items() if key in saved and saved[key].shape != value.shape]
    # a detector may make a buffer in its first iteration; this package's parts do not
    more = [key for key in saved if key not in own and (optimizers or key.startswith('distill.'))]
    found = [f'it has no {_parts(missing)}'] if missing else []
    found += [f'the config has no {_parts(more)}'] if more else []
    if shapes:
        key = shapes[0]
        rest = f', and {len(shapes) - 1} more' if len(shapes) > 1 else ''
        found.append(f'{key} is {tuple(saved[key].shape)} in it and {tuple(own[key].shape)} in the config{rest}')
    return found + optimizers


def _parts(keys: Iterable[str]) -> str:
    """Names of modules, down to the loss in the distiller's, with the number of weights in each."""
    counts: Counter[str] = Counter()
    for key in keys:
        words = key.split('.')
        depth = 3 if words[:2] == ['distill', 'losses'] else 2 if words[0] == 'distill' else 1
        counts['.'.join(words[:depth])] += 1
    shown = [f'{name} ({count})' for name, count in counts.items()]
    return ', '.join(shown[:6]) + (f' and {len(shown) - 6} more' if len(shown) > 6 else '')


def _groups(optim_wrapper: Any) -> dict[str, Any]:
    """What an optimizer's state says of its groups: sharded optimizers give their state to the first rank alone."""
    if isinstance(optim_wrapper, OptimWrapperDict):
        return {name: _groups(one) for name, one in optim_wrapper.items()}
    return dict(param_groups=optim_wrapper.optimizer.param_groups)


def _optimizer_differences(saved: Mapping[str, Any], own: Mapping[str, Any], name: str = '') -> list[str]:
    if 'param_groups' not in own:  # several optimizers
        if set(saved) != set(own):
            return [f'its optimizers are {sorted(saved)}, the config makes {sorted(own)}']
        return [what for key in own for what in _optimizer_differences(saved[key], own[key], f'{key} ')]
    if 'param_groups' not in saved:
        return [f'its optimizers are {sorted(saved)}, the config makes one']
    groups, wanted = saved['param_groups'], own['param_groups']
    subject = f'the optimizer {name}'.strip()
    if len(groups) != len(wanted):
        return [f'{subject} has {len(groups)} parameter groups, the config makes {len(wanted)}']
    if [len(g['params']) for g in groups] != [len(g['params']) for g in wanted]:
        count, here = (sum(len(g['params']) for g in one) for one in (groups, wanted))
        has = f'{subject} has {count} parameters in {len(groups)} groups'
        return [f'{has}, the config {here} or others in these groups']
    traits, here = ([t for t in _OPTIMIZER_TRAITS if t in one[0]] if one else [] for one in (groups, wanted))
    if traits != here:
        given, made = (', '.join(names) or 'nothing' for names in (traits, here))
        return [f'{subject} is of another type (with {given}, the config with {made})']
    return []
