"""Check the configs that were written, as far as that can be done before a teacher is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mmengine.registry import init_default_scope

from mmkd_graph.checking import FAIL, OK, WARNING, Finding, check_config
from mmkd_graph.checking.classes import head_classes
from mmkd_graph.checking.origins import model_error
from mmkd_graph.datasets.metainfo import config_classes
from mmkd_graph.distillers.initial import initialising
from mmkd_graph.distillers.teacher import build_detector
from mmkd_graph.findings import one_line
from mmkd_graph.packaged import read_config

from .configs import Written


def check_written(written: Written, device: str | None = None) -> Iterator[Finding]:
    """What :func:`mmkd_graph.checking.check_config` says of the distillation.

    While the teacher is not trained, its heads are compared with the data, and the weights that it starts from are
    looked for; it is not scored, and of the losses only failures are reported, as their values say nothing.
    """
    cfg = read_config(written.distillation)
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    if not written.trains_teacher:
        for finding in check_config(cfg, device=device):
            yield _in_file_of_student(finding, written)
        return
    yield from _teacher_alone(written.teacher)
    cfg.model.teacher = dict(config=written.teacher, strict=False)
    for finding in check_config(cfg, batches=0, device=device):
        if finding.key == 'model.teacher.checkpoint':
            found = f'{written.checkpoint} is not there yet: the teacher was not scored'
            finding = Finding(WARNING, finding.key, found, 'train it, then check again')
        if finding.level == FAIL or not finding.key.startswith('model.losses'):
            yield _in_file_of_student(finding, written)


def _in_file_of_student(finding: Finding, written: Written) -> Finding:
    """The finding under the key of the student's own file, where that was written: it is corrected there."""
    if not finding.key.startswith('model.student.') or Path(written.student) not in (x for x, *_ in written.files):
        return finding
    key, found = (text.replace('model.student.', 'model.') for text in (finding.key, finding.found))
    return replace(finding, key=key, found=found, place=finding.place or written.student)


def _teacher_alone(path: str) -> Iterator[Finding]:
    """Whether the teacher can be built, its training has what it starts from, and as many classes as its data."""
    cfg = read_config(path)
    names = config_classes((cfg.get('train_dataloader') or {}).get('dataset')) or ()
    try:
        teacher = build_detector(cfg, 'teacher.config')
        heads = head_classes(teacher)
    except Exception as error:  # constructors raise what they like
        yield Finding(FAIL, 'model.teacher.config', one_line(error), 'correct the config', place=path)
        return
    if wrong := {name: count for name, count in heads.items() if count != len(names)}:
        name, count = next(iter(wrong.items()))
        found = f'{name} has {count} classes, the training data {len(names)}'
        yield Finding(FAIL, 'model.teacher.config', found, f'set num_classes={len(names)}', place=path)
    else:
        found = f'{", ".join(heads) or "no head that says its classes"}: {len(names)}, as its training data'
        yield Finding(OK, 'model.teacher.config', found, place=path)
    try:
        with initialising(teacher, 'model', 'model'):
            teacher.init_weights()
    except Exception as error:  # files of any kind
        key, found = model_error(error, cfg)
        yield Finding(FAIL, key, found, place=path)
