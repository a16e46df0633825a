from __future__ import annotations

import math

import pytest
import torch
from heads import bound, context, levels, rows
from mmdet.models.losses import QualityFocalLoss

from mmkd_graph.losses import DistillContext, HeadOutputs, ScoreKDLoss


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_sigmoid_scores_against_a_float64_reading_with_loops():
    student, teacher = levels(1, 2 * 3), levels(2, 2 * 3)  # two anchors
    cost = confidence = 0.0
    for s_row, t_row in zip(rows(student, 3), rows(teacher, 3), strict=True):
        for s, t in zip(map(sigmoid, s_row), map(sigmoid, t_row), strict=True):
            cost += abs(t - s) ** 2 * -(t * math.log(s) + (1 - t) * math.log(1 - s))
        confidence += max(map(sigmoid, t_row))
    value = bound(ScoreKDLoss(score_weight=2.0))(HeadOutputs(student), HeadOutputs(teacher), context())
    assert value['score'].item() == pytest.approx(2 * cost / confidence, rel=1e-5)


def test_softmax_scores_against_a_float64_reading_with_loops():
    student, teacher = levels(1, 4), levels(2, 4)  # three classes and the background
    cost = total = 0.0
    for s_row, t_row in zip(rows(student, 4), rows(teacher, 4), strict=True):
        p, q = ([math.exp(x) / sum(map(math.exp, row)) for x in row] for row in (t_row, s_row))
        weight = 1 - p[-1]
        cost += weight * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        total += weight
    value = bound(ScoreKDLoss(), sigmoid=False)(HeadOutputs(student), HeadOutputs(teacher), context())
    assert value['score'].item() == pytest.approx(cost / total, rel=1e-5)


def test_of_sure_teachers_it_is_mmdets_quality_focal_loss():
    """With labels of one class of a score and zeros elsewhere, both are defined."""
    student = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    classes, quality = torch.arange(50) % 3, torch.linspace(0.1, 0.9, 50)
    teacher = torch.full((50, 3), -40.0)
    teacher[torch.arange(50), classes] = quality.logit()
    wanted = QualityFocalLoss(beta=2.0, reduction='sum')(student, (classes, quality)) / quality.sum()
    as_level = [HeadOutputs((x.T.reshape(1, 3, 5, 10),)) for x in (student, teacher)]
    loss = bound(ScoreKDLoss())
    value = loss(*as_level, DistillContext(data_samples=(), strides=(8,), batch_shape=(40, 80)))
    torch.testing.assert_close(value['score'], wanted)


@pytest.mark.parametrize('kind', [True, False])
def test_a_teacher_that_sees_nothing_costs_little(kind):
    student = levels(1, 3 + (not kind))
    teacher = tuple(torch.full_like(x, -30.0) for x in student)
    if not kind:
        for x in teacher:
            x[:, -1] = 30.0
    value = bound(ScoreKDLoss(), sigmoid=kind)(HeadOutputs(student), HeadOutputs(teacher), context())['score']
    places = len(rows(student, 3 + (not kind)))
    assert 0 <= value < 10 * places, 'it is divided by next to nothing'


def test_bad_options_name_the_key():
    with pytest.raises(ValueError, match='score_weight'):
        ScoreKDLoss(score_weight=-1)
