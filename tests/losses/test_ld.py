from __future__ import annotations

import math

import pytest
import torch
from heads import bound, context, given, levels, positives, rows
from mmdet.models.losses import KnowledgeDistillationKLDivLoss

from mmkd_graph.losses import HeadOutputs, LDLoss

BINS = 5


@pytest.mark.parametrize('tau', [10.0, 2.0])
def test_value_against_a_float64_reading_with_loops(tau):
    loss = bound(LDLoss(ld_weight=3.0, tau=tau), bins=BINS)
    student, teacher = given(loss, True, 1), given(loss, False, 2)
    wanted = 0.0
    chosen, scores = rows(student.positives, 1), rows(student.scores, 3)
    for (positive,), row, ours, theirs in zip(
        chosen, scores, rows(student.boxes, 4 * BINS), rows(teacher.boxes, 4 * BINS), strict=True
    ):
        if not positive:
            continue
        weight = 1 / (1 + math.exp(-max(row)))
        for edge in range(4):
            s, t = ([math.exp(x / tau) for x in side[edge * BINS : (edge + 1) * BINS]] for side in (ours, theirs))
            p, q = ([x / sum(side) for x in side] for side in (t, s))
            wanted += weight * tau**2 / BINS * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 4
    value = loss(student, teacher, context())['ld']
    assert value.item() == pytest.approx(3 * wanted / 2, rel=1e-4)  # two images


def test_of_two_images_it_is_the_loss_of_mmdets_head():
    """As ``LDHead.loss_by_feat_single`` calls it, level by level."""
    loss = bound(LDLoss(), bins=BINS)
    student, teacher = given(loss, True, 1), given(loss, False, 2)
    theirs = KnowledgeDistillationKLDivLoss(loss_weight=0.25, T=10)
    wanted = 0
    for scores, ours, soft, positive in zip(
        student.scores, student.boxes, teacher.boxes, student.positives, strict=True
    ):
        chosen = positive.permute(0, 2, 3, 1).reshape(-1)
        scores, ours, soft = (x.permute(0, 2, 3, 1).flatten(0, 2)[chosen] for x in (scores, ours, soft))
        weight = scores.sigmoid().max(dim=1)[0][:, None].expand(-1, 4).reshape(-1)
        wanted = wanted + theirs(ours.reshape(-1, BINS), soft.reshape(-1, BINS), weight=weight, avg_factor=4.0)
    torch.testing.assert_close(loss(student, teacher, context())['ld'], wanted)


def test_only_boxes_of_positives_take_a_gradient_and_no_score():
    loss = bound(LDLoss(), bins=BINS)
    scores, boxes = (tuple(x.requires_grad_() for x in levels(i, width)) for i, width in ((1, 3), (2, 4 * BINS)))
    student = HeadOutputs(scores, boxes, positives(3))
    loss(student, given(loss, False, 2), context())['ld'].backward()
    assert all(x.grad is None for x in scores)
    for box, positive in zip(boxes, student.positives, strict=True):
        assert torch.equal(box.grad.abs().amax(1, keepdim=True) > 0, positive)


def test_without_positives_it_is_an_attached_zero():
    loss = bound(LDLoss(), bins=BINS)
    boxes = tuple(x.requires_grad_() for x in levels(2, 4 * BINS))
    student = HeadOutputs(levels(1, 3), boxes, tuple(torch.zeros_like(x) for x in positives(3)))
    value = loss(student, given(loss, False, 2), context())['ld']
    value.backward()
    assert value == 0 and all(torch.equal(x.grad, torch.zeros_like(x)) for x in boxes)


@pytest.mark.parametrize(('options', 'word'), [(dict(tau=0), 'tau'), (dict(ld_weight=-1), 'ld_weight')])
def test_bad_options_name_the_key(options, word):
    with pytest.raises(ValueError, match=word):
        LDLoss(**options)
