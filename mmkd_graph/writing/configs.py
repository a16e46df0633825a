"""The files of a distillation: the data, student and teacher alone on them, and the distillation itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

from mmkd_graph.checkpoints import is_address
from mmkd_graph.datasets.metainfo import config_classes
from mmkd_graph.datasets.own import NAMES, SPLITS, OwnData, find_data
from mmkd_graph.findings import Finding
from mmkd_graph.packaged import command, read_config
from mmkd_graph.registry import type_name

from .code import Code, assignment, differences
from .fitting import COUNT, fitted
from .sources import Source, find_config, find_losses, work_dir

FOLDER = Path('configs/own')
"""Where files go if nothing else is asked for."""
_NAMED = 3
"""Differences of a file that are named."""


@dataclass(frozen=True)
class Written:
    """What :func:`write_configs` did.

    Attributes:
        files: path and contents, in words, of every file; and whether it was there already; its comments may differ.
        distillation: path of the distillation's config.
        student: path or ``mmdet::`` name of the config of the student alone.
        teacher: what ``model.teacher.config`` says.
        checkpoint: what ``model.teacher.checkpoint`` says.
        trains_teacher: whether the teacher has to be trained before.
        notes: what the user should know of the data.
    """

    files: list[tuple[Path, str, bool]]
    distillation: Path
    student: str
    teacher: str
    checkpoint: str
    trains_teacher: bool
    notes: list[Finding] = field(default_factory=list)

    def commands(self) -> list[str]:
        """What to run next, in order."""
        cfg = read_config(self.distillation)
        path = self.distillation.as_posix()
        last = Source(path, cfg).last_checkpoint() or f'{work_dir(path, cfg)}/NAME.pth'
        first = []
        if self.trains_teacher:
            first = [_train(self.teacher, read_config(self.teacher)), command('check.py', path)]
        return [*first, _train(path, cfg), command('test.py', path, last)]


def _train(path: Path | str, cfg: Config) -> str:
    """The command of a training; learning rates of the zoo are those of its number of GPUs."""
    scaled = 'base_batch_size' in (cfg.get('auto_scale_lr') or {})
    return command('train.py', str(path), *(['--auto-scale-lr'] if scaled else []))


def write_configs(
    student: str,
    teacher: str,
    data: str | None = None,
    losses: Sequence[str] = ('crg',),
    teacher_checkpoint: str | None = None,
    out: str | None = None,
    force: bool = False,
    command: str = '',
) -> Written:
    """Write the config of a distillation, and, with ``data``, those that it needs, into the same folder.

    Args:
        student: config of the plain student, a path or ``'mmdet::family/name.py'``.
        teacher: config of the teacher, likewise.
        data: folder or config of the data (:func:`~mmkd_graph.datasets.own.find_data`); default: those of ``student``.
        losses: names of losses, such as ``'crg'``.
        teacher_checkpoint: weights of the teacher, for ``teacher`` as it is. Default: with ``data``, those that its
            training on ``data`` will leave; without, those that mmdet publishes, or that its training will leave.
        out: the distillation's path, default ``configs/own/<student>_<losses>_<data>.py``.
        force: overwrite files that differ in more than comments.
        command: what was called, for the comment of the distillation.

    Raises:
        FileExistsError: if a file is there with other settings; nothing has been written then.
        FileNotFoundError, ValueError: for what cannot be used; names the argument.
    """
    pupil, tutor = find_config(student, 'STUDENT'), find_config(teacher, 'TEACHER')
    if type_name(pupil.cfg.model.get('type')) == 'GraphDistiller':
        raise ValueError(f'STUDENT={student!r} is a distillation; accepted: the config of its student alone')
    if out and not out.endswith('.py'):
        raise ValueError(f'--out: {out!r}; accepted: a name that ends in .py')
    if teacher_checkpoint and not is_address(teacher_checkpoint) and not Path(teacher_checkpoint).is_file():
        raise FileNotFoundError(f'--teacher-checkpoint: there is no file {teacher_checkpoint!r}')
    own = find_data(data) if data else None
    names = own.classes if own else config_classes((pupil.cfg.get('train_dataloader') or {}).get('dataset'))
    terms = find_losses(losses, COUNT if own else len(names or ()))
    suffix = f'_{_name(own)}' if own else ''
    target = Path(out or FOLDER / f'{pupil.short if own else pupil.stem}_{"-".join(terms)}{suffix}.py')
    folder = target.parent
    texts: dict[Path, tuple[str, str]] = {}
    if own:
        data_file = Path(own.source) if own.is_base else folder / f'{_name(own)}.py'
        if not own.is_base:
            if data_file.is_file() and data_file.samefile(own.source):  # a whole config, which cannot be a base
                data_file = data_file.with_stem(f'{data_file.stem}_data')
            texts[data_file] = 'the data: change images and classes here', _data_text(own)
        pupil = _on_data(pupil, own, data_file, folder, 'STUDENT', texts)
        if not teacher_checkpoint:
            if type_name(tutor.cfg.model.get('type')) == 'GraphDistiller':
                raise ValueError(
                    f'TEACHER={teacher!r} is a distillation, which is not fitted to other data; accepted: the config '
                    'of its student alone, or --teacher-checkpoint with weights of it'
                )
            tutor = _on_data(tutor, own, data_file, folder, 'TEACHER', texts)
    published = None if own else tutor.weights()
    checkpoint = teacher_checkpoint or published or (tutor.last_checkpoint() if tutor.is_local else None)
    if not checkpoint:
        what = 'does not say after how many epochs or iterations it ends' if tutor.is_local else 'has no weights'
        raise ValueError(f'--teacher-checkpoint is missing: TEACHER={teacher!r} {what}; accepted: a path or URL')
    if target in texts:
        raise ValueError(f'--out: {out!r} is the name of {texts[target][0]}; accepted: another')
    for path in (*texts, target):
        if path.is_file() and any(Path(name).is_file() and path.samefile(name) for name in (student, teacher)):
            raise ValueError(f'{path} would be written over, which is read here; accepted: another folder in --out')
    text = _distillation_text(pupil, tutor, checkpoint, terms, folder, target, command)
    texts[target] = 'the distillation', text
    files = _write(texts, force)
    untrained = not is_address(checkpoint) and not Path(checkpoint).is_file()
    return Written(files, target, pupil.name, tutor.name, checkpoint, untrained, own.notes if own else [])


def _name(own: OwnData) -> str:
    """A short name of the data, for files."""
    return Path(os.path.abspath(own.source)).stem.replace('.', '-')


def _data_text(own: OwnData) -> str:
    values = [own.type, own.root, own.classes, *(own.splits[split] for split in SPLITS)]
    lines = ''.join(assignment(name, value) for name, value in zip(NAMES, values, strict=True))
    return (
        '# Which images and which classes. The configs that have this file as a base follow every change here.\n'
        f'# Written by new_config from {own.source}\n{lines}'
    )


def _on_data(
    source: Source,
    own: OwnData,
    data_file: Path,
    folder: Path,
    role: str,
    texts: dict[Path, tuple[str, str]],
) -> Source:
    """Put the config of a detector on the data into ``texts``; returns what it will be."""
    path = folder / f'{source.short}_{_name(own)}.py'
    bases = [source.base(folder), Source(str(data_file), own).base(folder)]
    text = f'# {source.short} alone, on the images and classes of {data_file.as_posix()}\n'
    text += f'# Run: {_train(path, source.cfg)}\n{assignment("_base_", bases)}\n{fitted(source, own, role)}'
    what = f'the {role.lower()} alone'
    if path in texts and texts[path][1] != text:
        raise ValueError(f'STUDENT and TEACHER would both be {str(path)!r}; rename one of their configs')
    texts[path] = ('student and teacher alone' if path in texts else what), text
    return Source(path.as_posix(), source.cfg)


def _distillation_text(
    pupil: Source, tutor: Source, checkpoint: str, losses: dict, folder: Path, target: Path, command: str
) -> str:
    model = dict(
        _delete_=True,
        type='mmkd_graph.GraphDistiller',
        student=Code('{{_base_.model}}'),
        teacher=dict(config=tutor.name, checkpoint=checkpoint),
        losses=losses,
    )
    hooks = [dict(type='mmkd_graph.StudentExportHook')]
    note, made = '', f'# Written by: {command}\n' if command else ''
    if pupil.cfg.get('custom_hooks'):
        hooks = [Code('*_base_.custom_hooks'), *hooks]
        note = "# A list replaces the inherited one, so the student's own hooks are repeated.\n"
    ready = is_address(checkpoint) or Path(checkpoint).is_file()
    first = '' if ready else f'# First: {_train(tutor.name, tutor.cfg)}\n'
    return (
        f'# {pupil.short} learns from {tutor.short}.\n{made}{first}'
        f'# Run: {_train(target, pupil.cfg)}\n'
        f'{assignment("_base_", pupil.base(folder))}\n{assignment("model", model)}\n'
        f'{note}# StudentExportHook writes student.pth and student.py at the end.\n'
        f'{assignment("custom_hooks", hooks)}'
    )


def _code(text: str) -> list[str]:
    """Lines but for comments: those say how a file was made."""
    return [line for line in text.splitlines() if not line.startswith('#')]


def _write(texts: dict[Path, tuple[str, str]], force: bool) -> list[tuple[Path, str, bool]]:
    same = {
        path for path, (_, text) in texts.items() if path.is_file() and _code(path.read_text('utf-8')) == _code(text)
    }
    others = [str(path) for path in texts if path.exists() and path not in same]
    if others and not force:
        verb = 'is' if len(others) == 1 else 'are'
        first = Path(others[0])
        found = differences(first.read_text('utf-8'), texts[first][1]) if first.is_file() else []
        more = f' and {len(found) - _NAMED} more' if len(found) > _NAMED else ''
        which = f' ({others[0]} has {"; ".join(found[:_NAMED])}{more})' if found else ''
        raise FileExistsError(
            f'{", ".join(others)} {verb} there already, with other settings{which}; accepted: --force, which '
            'overwrites, or another --out'
        )
    for path, (_, text) in texts.items():
        if path not in same:
            os.makedirs(path.parent, exist_ok=True)
            path.write_text(text, encoding='utf-8')
    return [(path, what, path in same) for path, (what, _) in texts.items()]
