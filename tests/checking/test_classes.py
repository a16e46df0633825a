"""The classes of a teacher against those of the data: where they are read, and how bad a difference is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from mmkd_graph.checking import FAIL, OK, WARNING, Finding
from mmkd_graph.checking.classes import check_classes, side_by_side, teacher_classes
from mmkd_graph.losses import PyramidLoss

NAMES = ('cat', 'dog', 'cow')


def detector(classes: int) -> nn.Module:
    model = nn.Module()
    model.bbox_head = nn.Module()
    model.bbox_head.num_classes = classes
    return model


class Reading(PyramidLoss):
    """As a loss that compares scores."""

    reads_teacher_classes = True

    def forward(self, student: tuple, teacher: tuple, context: Any) -> dict:
        return {}


def teacher(meta: dict | None = None, dataset: dict | None = None, heads: int = 3) -> SimpleNamespace:
    return SimpleNamespace(loaded=SimpleNamespace(meta=meta) if meta else None, dataset=dataset, model=detector(heads))


def judge(of: SimpleNamespace, init_student: str | None = None, loss: Any = None) -> Finding:
    distill = SimpleNamespace(losses=dict(own=loss or SimpleNamespace(reads_teacher_classes=False)))
    model = SimpleNamespace(student=detector(3), teacher=of, distill=distill, init_student=init_student)
    _, finding = check_classes(model, dict(classes=NAMES))
    assert finding.key == 'model.teacher'
    return finding


def test_a_checkpoint_of_several_data_sets_names_its_classes() -> None:
    several = dict(dataset_meta=[dict(classes=NAMES, palette=[1]), dict(classes=list(NAMES), palette=[2])])
    assert teacher_classes(teacher(several)) == (NAMES, 'its checkpoint')
    assert judge(teacher(several)).level == OK
    differ = dict(dataset_meta=[dict(classes=NAMES), dict(classes=('x',))])
    assert teacher_classes(teacher(differ))[0] is None


@pytest.mark.parametrize('names', [('x', 'y', 'z'), ('cat', 'dog', 'x', 'y')])
def test_other_classes_are_a_warning_with_what_was_measured(names: tuple) -> None:
    of = teacher(dict(dataset_meta=dict(classes=names)), heads=len(names))
    finding = judge(of)
    assert finding.level == WARNING and 'MGD gained 4.9 AP, CRG 4.4 and CWD 3.9' in finding.found
    refused = judge(of, init_student='teacher')
    assert refused.level == FAIL and 'init_student=None' in refused.advice and 'gained' not in refused.found
    reading = judge(of, loss=Reading())
    assert reading.level == FAIL and 'leave out losses.own, which reads them' in reading.advice


def test_a_misspelt_class_is_not_praised() -> None:
    finding = judge(teacher(dict(dataset_meta=dict(classes=('cat', 'dogs', 'cow')))))
    assert finding.level == WARNING and 'gained' not in finding.found
    assert 'a slip in metainfo.classes (dog for dogs)?' in finding.advice


def test_another_order_is_refused_where_it_is_read() -> None:
    of = teacher(dict(CLASSES=NAMES[::-1]))
    assert judge(of).level == WARNING
    assert judge(of, init_student='teacher').level == FAIL and judge(of, loss=Reading()).level == FAIL


@pytest.mark.parametrize('heads', [3, 80])
def test_unknown_classes_say_which_key_to_set_and_have_no_table(heads: int) -> None:
    finding = judge(teacher(heads=heads))
    assert finding.level == WARNING and 'neither its checkpoint nor its config names its classes' in finding.found
    assert 'model.teacher.config' in finding.advice and 'train_dataloader.dataset.metainfo.classes' in finding.advice
    assert 'teacher' not in finding.details, 'a table would have a row "differs" for every class'
    # what the advice says helps
    named = dict(type='CocoDataset', metainfo=dict(classes=NAMES))
    assert judge(teacher(dataset=named)).level == OK
    assert (judge(teacher(heads=heads), loss=Reading()).level == FAIL) == (heads == 80)


def test_rows_of_the_table() -> None:
    assert [row[3] for row in side_by_side(('cat', 'cow'), NAMES)] == [True, False, False]
