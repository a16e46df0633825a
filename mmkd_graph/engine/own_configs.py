"""A user's own distillation configs as a comparison: the student alone, and each teacher as it is, follow from them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope

from mmkd_graph.checking.classes import class_difference, head_classes, teacher_classes
from mmkd_graph.checking.origins import explained, located
from mmkd_graph.checkpoints import is_address, save_whole
from mmkd_graph.datasets.metainfo import config_classes
from mmkd_graph.distillers import FrozenTeacher, GraphDistiller
from mmkd_graph.distillers.teacher import model_of, resolve_model_config
from mmkd_graph.export import student_config
from mmkd_graph.losses.names import rename_losses
from mmkd_graph.registry import type_name

from .runs import resolved
from .suites import SuiteError

_INDIFFERENT = (
    *('log_level', 'log_processor', 'visualizer', 'vis_backends', 'env_cfg', 'experiment_name'),
    *('default_hooks.logger', 'default_hooks.visualization', 'default_hooks.timer'),
)
"""What does not change how a student trains."""
_NAMED = 3


@dataclass(frozen=True)
class Teacher:
    """One that distillation configs name.

    Attributes:
        config: text of the config that evaluates it on the data of the student.
        weights: checkpoint, a path or an address.
        problem: why it cannot be evaluated there; empty if it can.
    """

    config: str
    weights: str
    problem: str = ''


@dataclass(frozen=True)
class OwnConfigs:
    """Distillation configs that have their student in common.

    Attributes:
        methods: paths of the configs, by name.
        student: text of the config of the student alone.
        teachers: by name.
        taught_by: per method the name of its teacher.
        splits: those of ``val`` and ``test`` for which there are data and an evaluator.
        validated: whether trainings read their validations, for their schedule or their end.
        notes: what has to be known of the data, in sentences.
    """

    methods: Mapping[str, str]
    student: str
    teachers: Mapping[str, Teacher]
    taught_by: Mapping[str, str]
    splits: tuple[str, ...]
    validated: bool
    notes: tuple[str, ...] = ()

    @classmethod
    def from_files(cls, paths: Sequence[str | Path], cfg_options: Mapping[str, Any], work_dir: Path) -> OwnConfigs:
        """Read the configs, and build each distiller once: what is wrong is known before anything is trained.

        Args:
            paths: of the configs.
            cfg_options: settings on top of each.
            work_dir: for weights of a teacher that have to be rewritten.

        Raises:
            SuiteError: naming the file and the key.
        """
        configs: dict[str, Config] = {}
        files: dict[str, str] = {}
        for path in map(Path, paths):
            name = path.stem
            if name in (*files, 'student', 'teacher') or name.startswith('teacher-'):
                name = f'{path.resolve().parent.name}_{name}'
            if name in files:
                raise SuiteError(f'{path} and {files[name]} have one name; accepted: configs of different names')
            files[name], configs[name] = str(path), read_distillation(path, cfg_options)
        students = {name: plain_student(cfg, files[name]) for name, cfg in configs.items()}
        first, *others = students
        for name in others:
            if keys := differing(students[first].to_dict(), students[name].to_dict()):
                more = f' and {len(keys) - _NAMED} more' if len(keys) > _NAMED else ''
                raise SuiteError(
                    f'{files[first]} and {files[name]} train their students differently, in '
                    f'{", ".join(keys[:_NAMED])}{more}; accepted: configs that differ in teacher and losses alone'
                )
        config = configs[first]
        splits = tuple(x for x in ('test', 'val') if config.get(f'{x}_dataloader') and config.get(f'{x}_evaluator'))
        if not splits:
            raise SuiteError(
                f'{files[first]}: neither test_dataloader nor val_dataloader; accepted: data to compare on'
            )
        names = config_classes(config[f'{splits[0]}_dataloader'].dataset)
        teachers: dict[str, Teacher] = {}
        taught_by = {}
        for name, cfg in configs.items():
            teacher = read_teacher(cfg, files[name], names, work_dir)
            known = next((label for label, one in teachers.items() if one == teacher), f'teacher-{name}')
            teachers[known], taught_by[name] = teacher, known
        if len(teachers) == 1:
            teachers, taught_by = {'teacher': next(iter(teachers.values()))}, dict.fromkeys(taught_by, 'teacher')
        return cls(
            files,
            students[first].pretty_text,
            teachers,
            taught_by,
            splits,
            _reads_metrics(config),
            _same_data(config) if len(splits) > 1 else (),
        )


def read_distillation(path: Path, cfg_options: Mapping[str, Any]) -> Config:
    """A distillation config.

    Raises:
        SuiteError: if it cannot be read, or is none.
    """
    if '::' not in str(path) and not path.is_file():
        raise SuiteError(f'{path}: no such file; accepted: a suite, or distillation configs')
    try:
        cfg = resolved(path, cfg_options)
    except Exception as error:  # a config is a program: it may raise anything
        raise SuiteError(f'{path} cannot be read with these --cfg-options: {explained(error)}') from error
    kind = (cfg.get('model') or {}).get('type')
    if type_name(kind) != 'GraphDistiller':
        raise SuiteError(
            f'{path}: model.type={kind!r}; accepted: a distillation (mmkd_graph.GraphDistiller); the student alone '
            'follows from it'
        )
    return cfg


def plain_student(cfg: Config, path: str) -> Config:
    """The config that trains the student of a distillation config alone, from the same weights."""
    try:
        plain = student_config(cfg)
    except (FileNotFoundError, TypeError, ValueError) as error:
        raise SuiteError(f'{path}: {error}') from error
    plain.load_from = cfg.get('load_from')
    return plain


def read_teacher(cfg: Config, path: str, names: Sequence[str] | None, work_dir: Path) -> Teacher:
    """The teacher of a distillation config, which is built as the training would.

    Args:
        cfg: the whole config.
        path: its file, for messages.
        names: classes of the data, None if they are not known.
        work_dir: where its weights go if their names in the checkpoint are not those of its model.

    Raises:
        SuiteError: if the distiller cannot be built.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    try:
        model = ConfigDict(copy.deepcopy(model_of(cfg)))
        rename_losses(model)
        distiller: GraphDistiller = MMDET_MODELS.build(model)
        whole = cfg.to_dict()
        whole.pop('data_preprocessor', None)  # the student's
        whole['model'] = resolve_model_config(cfg.model.teacher.config, 'model.teacher.config').to_dict()
    except Exception as error:  # what is wrong with a model has no common base; its messages name the key
        raise SuiteError(f'{path}: {located(explained(error), cfg, "model")}') from error
    teacher = distiller.teacher
    alone = student_config(Config(whole))
    alone.custom_hooks = []  # those of the student's training
    weights = cfg.model.teacher.get('checkpoint')
    problem = _problem(teacher, names)
    if weights and not problem:
        alone.teacher_weights = _digest(weights)
        if teacher.loaded.prefix:
            weights = str(work_dir / f'teacher-{alone.teacher_weights[:12]}.pth')
            save_whole(dict(state_dict=teacher.model.state_dict(), meta={}), weights)
    return Teacher(alone.pretty_text, weights or '', problem)


def differing(one: Mapping[str, Any], other: Mapping[str, Any], key: str = '') -> list[str]:
    """Keys in which two configs train differently.

    Example:
        >>> differing(dict(a=dict(b=1, c=2), log_level='INFO'), dict(a=dict(b=1, c=3)))
        ['a.c']
    """
    found = []
    for name in dict.fromkeys((*one, *other)):
        inner = f'{key}.{name}' if key else name
        a, b = one.get(name), other.get(name)
        if a == b or inner in _INDIFFERENT:
            continue
        found += differing(a, b, inner) if isinstance(a, Mapping) and isinstance(b, Mapping) else [inner]
    return found


def _problem(teacher: FrozenTeacher, names: Sequence[str] | None) -> str:
    """Why a teacher cannot be evaluated on data of these classes; empty if it can."""
    if teacher.loaded is None:
        return 'it has no weights'
    if teacher.loaded.mismatch:
        return 'not all of its weights are loaded (model.teacher.strict=False)'
    known, source = teacher_classes(teacher)
    if names is None:
        return 'the data set does not name its classes'
    if known is not None:
        return '' if list(known) == list(names) else f'other classes than the data: {class_difference(known, names)}'
    counts = {*head_classes(teacher.model).values()}
    return '' if counts == {len(names)} else f'{source} names its classes, and its heads have {sorted(counts)}'


def _digest(weights: str) -> str:
    """A name for the content of a checkpoint; of an address that of the address, whose files do not change."""
    if is_address(weights):
        return hashlib.sha256(weights.encode()).hexdigest()
    digest = hashlib.sha256()
    with open(weights, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _reads_metrics(cfg: Config) -> bool:
    schedulers = cfg.get('param_scheduler') or []
    parts = [*(cfg.get('custom_hooks') or []), *([schedulers] if isinstance(schedulers, Mapping) else schedulers)]
    kinds = [type_name(part.get('type')) for part in parts if isinstance(part, Mapping)]
    return any(kind.startswith(('ReduceOnPlateau', 'EarlyStopping')) for kind in kinds)


def _same_data(cfg: Config) -> tuple[str, ...]:
    val, test = (
        {
            key: value
            for key, value in cfg[f'{split}_dataloader'].dataset.items()
            if key not in ('pipeline', 'test_mode')
        }
        for split in ('val', 'test')
    )
    if val != test:
        return ()
    return (f'val and test are the same data ({test.get("ann_file", "by val_dataloader and test_dataloader")}).',)
