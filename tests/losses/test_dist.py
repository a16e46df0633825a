from __future__ import annotations

import math
import statistics

import pytest
import torch
from heads import bound, context, levels, rows

from mmkd_graph.losses import DISTLoss, HeadOutputs


def probabilities(row, sigmoid):
    if sigmoid:
        return [1 / (1 + math.exp(-x)) for x in row]
    return [math.exp(x) / sum(map(math.exp, row)) for x in row]


@pytest.mark.parametrize('sigmoid', [True, False])
def test_values_against_a_float64_reading_with_loops(sigmoid):
    outputs = 3 + (not sigmoid)
    student, teacher = levels(1, 2 * outputs), levels(2, 2 * outputs)  # two anchors
    s, t = ([probabilities(row, sigmoid) for row in rows(x, outputs)] for x in (student, teacher))
    inter = statistics.mean(1 - statistics.correlation(a, b) for a, b in zip(s, t, strict=True))
    columns = zip(zip(*s, strict=True), zip(*t, strict=True), strict=True)
    intra = statistics.mean(1 - statistics.correlation(a, b) for a, b in columns)
    loss = bound(DISTLoss(inter_weight=2.0, intra_weight=3.0), sigmoid=sigmoid)
    terms = loss(HeadOutputs(student), HeadOutputs(teacher), context())
    assert terms['inter'].item() == pytest.approx(2 * inter, rel=1e-5)
    assert terms['intra'].item() == pytest.approx(3 * intra, rel=1e-5)


def test_one_class_has_places_alone():
    loss = bound(DISTLoss(), classes=1)
    assert set(loss(HeadOutputs(levels(1, 1)), HeadOutputs(levels(2, 1)), context())) == {'intra'}
    with pytest.raises(ValueError, match=r'losses\.kd\.intra_weight'):
        bound(DISTLoss(intra_weight=0), classes=1)


def test_tiny_scores_have_the_relations_of_large_ones():
    """Probabilities of background are 1e-6 and less: what they are relative to each other counts."""
    student, teacher = levels(1, 3, scale=0.5), levels(2, 3, scale=0.5)
    values = []
    for shift in (12.0, 40.0):
        sides = [tuple((x - shift).requires_grad_() for x in side) for side in (student, teacher)]
        terms = bound(DISTLoss())(*map(HeadOutputs, sides), context())
        sum(terms.values()).backward()
        assert all(x.grad.isfinite().all() for x in sides[0])
        values.append(sum(terms.values()))
    torch.testing.assert_close(*values, rtol=1e-3, atol=1e-4)


def test_constant_scores_have_no_relation():
    student = tuple(torch.zeros_like(x).requires_grad_() for x in levels(1, 3))
    terms = bound(DISTLoss())(HeadOutputs(student), HeadOutputs(levels(2, 3)), context())
    sum(terms.values()).backward()
    assert all(value == 0 for value in terms.values())
    assert all(torch.equal(x.grad, torch.zeros_like(x)) for x in student)


def test_bad_options_name_the_key():
    with pytest.raises(ValueError, match='inter_weight'):
        DISTLoss(inter_weight=-1)
    with pytest.raises(ValueError, match='all 0'):
        DISTLoss(inter_weight=0, intra_weight=0)
